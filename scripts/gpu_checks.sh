#!/bin/sh
# All checks that need a GPU, then tokens/s and utilisation; output and the machine's name go to docs/results/gpu.txt as well.
# Usage: scripts/gpu_checks.sh [python]; ARGS go to the benchmark.
set -u
cd "$(dirname "$0")/.."
python=${1:-.venv/bin/python}
out=docs/results/gpu.txt
if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "gpu_checks: $python sees no GPU; nothing was run and $out is as it was" >&2
    exit 2
fi
partial=$(mktemp)
{
    echo "machine: $(hostname), $(date -u +%Y-%m-%d), commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
    nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
    "$python" -c 'import torch, importlib.metadata as m
print("torch", torch.__version__, "CUDA", torch.version.cuda)
for name in ("transformer-engine", "megatron-core", "vllm"):
    try: print(name, m.version(name))
    except m.PackageNotFoundError: print(name, "absent")'
    echo
    "$python" -m pytest -q -s -rA -W ignore tests/gpu
    echo "pytest: exit status $?"
    echo
    # shellcheck disable=SC2086
    PYTHONPATH=. "$python" tests/benchmarks/gpu_update.py ${ARGS:-}
    echo "gpu_update: exit status $?"
} 2>&1 | tee "$partial"
mkdir -p docs/results
mv "$partial" "$out"
! grep -qE "exit status [1-9]" "$out"
