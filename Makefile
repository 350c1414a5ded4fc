# Two commands: `make demo` and `make test`. `make` alone explains.

VENV ?= .venv
SEED ?=
RUN_DIR ?=
ARGS ?=

bin := $(VENV)/bin
code := orchestrator rewards rollout actor scripts tests
typed := orchestrator rewards rollout actor scripts

# Set in some containers; it would make every process compile vllm and transformers anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test gpu lint format venv browser clean distclean

help:
	@echo "mgrd: reinforcement learning for audio language models"
	@echo
	@echo "  make demo                        set up, train on real recordings, evaluate, print what happened (10 minutes on 2 cores)"
	@echo "  make demo SEED=11 RUN_DIR=runs/a  another seed, another place for the run"
	@echo "  make test                        set up if need be, run all tests on two cores (up to 20 minutes)"
	@echo "  make test ARGS='-m \"not slow\"'    only the tests that start no engine, trainer or server (ARGS go to pytest)"
	@echo "  make gpu                         on a machine with a GPU: the checks that need one, into docs/results/gpu.txt (VENV names the environment)"
	@echo "  make lint                        style and types"
	@echo "  make format                      let ruff format the code"
	@echo "  make venv                        only the environment, $(VENV), from requirements/cpu.lock (PYTHON=… names an interpreter)"
	@echo "  make clean                       remove caches and build products; distclean: the environment as well"
	@echo
	@echo "Then: $(bin)/mgrd --help"

venv:
	@scripts/setup_venv.sh $(VENV)

demo: venv
	$(bin)/mgrd run experiment=demo $(if $(SEED),run.seed=$(SEED)) $(if $(RUN_DIR),run.dir=$(RUN_DIR)) $(ARGS)

# Chromium for the tests of the service's page; where it can't be had, they are skipped and say so.
browser:
	@scripts/setup_browser.sh

test: venv browser
	$(bin)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

# In an environment with CUDA builds of torch and vLLM (pip install '.[gpu,dev]'); see docs/GPU.md.
gpu:
	@scripts/gpu_checks.sh $(bin)/python

lint: venv
	$(bin)/ruff check $(code)
	$(bin)/ruff format --check $(code)
	$(bin)/mypy $(typed)

format: venv
	$(bin)/ruff check --fix $(code)
	$(bin)/ruff format $(code)

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(code) -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
