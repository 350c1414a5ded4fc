"""The GPU benchmark's own machinery, at a shape that a CPU can take; its figures are for GPUs alone (docs/GPU.md)."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from actor import testing_shapes
from actor.testing import one_rank, trainer_spec
from actor.testing_shapes import Shape, random_weights, shape_case
from orchestrator.plan.sizes import sizes_of
from rollout import load_config
from rollout.model.reference import StepAudio2ForCausalLM

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu_update.py"
TINY = Shape(hidden=128, ffn=256, layers=2, heads=4, kv_heads=2, vocab=384, tied=True)
GIB = 1 << 30


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_update", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_update"] = module  # where its dataclass looks for itself
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_a_row_is_measured_by_the_first_choice_that_fits(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stage: str
) -> None:
    monkeypatch.setitem(testing_shapes.SHAPES, "tiny", TINY)
    small = {"questions": 2, "samples": 2, "prompt": 8, "response": 8, "micro-batch-tokens": 64, "repeat": 1}
    settings = benchmark.parse([word for name, value in small.items() for word in (f"--{name}", str(value))])
    roomy = benchmark.measure(settings, "tiny", stage, "torch", "cpu", GIB)
    assert (roomy.method, roomy.tokens, roomy.rows) == ("recompute=none", 4 * 16, 2 * (8 + 2 * 7))
    assert roomy.tokens_per_s > 0
    bytes_of_lora = benchmark._plans(settings, sizes_of(load_config(shape_case(tmp_path, TINY).model)), stage)[-1][1]
    assert benchmark.measure(settings, "tiny", stage, "torch", "cpu", bytes_of_lora).method.endswith("lora_rank=16")
    assert benchmark.measure(settings, "tiny", stage, "torch", "cpu", 1) is None


def test_weights_drawn_by_name_are_those_of_every_trainer(tmp_path: Path) -> None:
    case = shape_case(tmp_path, TINY)
    seen = []
    for dtype in ("float32", "bfloat16"):
        spec = trainer_spec(case, dtype=dtype)
        with random_weights("cpu", "float32"), one_rank(spec, tmp_path) as trainer:
            weight = trainer.actor.model.language_model.decoder.layers[1].mlp.linear_fc2.weight.detach()
            seen.append(weight.float().clone())
    assert 0.018 < float(seen[0].std()) < 0.022
    assert torch.equal(seen[0].bfloat16().float(), seen[1])
    with torch.device("meta"):
        whole = StepAudio2ForCausalLM(testing_shapes.models.load_config(case.model))
    assert set(testing_shapes.RandomWeights(case.model, "cpu", torch.float32)) == set(whole.state_dict())


def test_without_a_gpu_it_says_so_and_measures_nothing() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    run = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 1
    assert "torch sees no GPU" in run.stderr
