"""Tokens a second and model FLOPs utilisation of SFT and PPO updates of 1.5, 3 and 7 B on one GPU, random weights.

Run it by hand: `python tests/benchmarks/gpu_update.py --help`, or all GPU checks with `make gpu`. Each row takes the first of: optimizer on
the GPU without recompute, with full recompute, offloaded with full recompute, LoRA with full recompute, that the plan fits into the
GPU's memory. Utilisation: operations an update needs (`orchestrator/plan/flops.py` has formula and sources) by time by the GPU's peak in
bfloat16 (verl's table).
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

CHOICES: tuple[dict[str, Any], ...] = (
    {"recompute": "none"},
    {"recompute": "full"},
    {"recompute": "full", "offload_optimizer": True},
    {"recompute": "full", "lora_rank": 16},
)


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement. tokens: prompt and response tokens of all sequences; rows: those that are computed (shared prompts once)."""

    shape: str
    stage: str
    kernels: str
    method: str
    tokens: int
    rows: int
    seconds: float
    tokens_per_s: float
    mfu: float
    planned_gib: float
    peak_gib: float


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["1b", "3b", "7b"], help="of actor.testing_shapes.SHAPES")
    parser.add_argument("--stages", nargs="+", default=["sft", "ppo"], choices=["sft", "ppo"])
    parser.add_argument("--kernels", nargs="+", default=["torch", "auto"], help="auto is left out where it means torch")
    parser.add_argument("--questions", type=int, default=4)
    parser.add_argument("--samples", type=int, default=4, help="of each question; they share its prompt's rows")
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--response", type=int, default=1024)
    parser.add_argument("--micro-batch-tokens", type=int, default=8192)
    parser.add_argument("--repeat", type=int, default=3, help="updates timed, after one that is not")
    parser.add_argument("--memory-gib", type=float, default=0.0, help="of the GPU for the plan (default: what it has)")
    return parser.parse_args(arguments)


def measure(settings: argparse.Namespace, shape: str, stage: str, kernels: str, device: str, limit: int) -> Row | None:
    """None when no choice fits the limit (bytes)."""
    import torch

    from actor.testing import one_rank, sft_examples, trainer_spec
    from actor.testing_shapes import SHAPES, random_weights, shape_case, text_experiences
    from orchestrator.plan.flops import Work, update_flops
    from orchestrator.plan.memory import GIB
    from orchestrator.plan.sizes import sizes_of
    from rollout import load_config

    with tempfile.TemporaryDirectory(prefix="gpu_update_") as temporary:
        folder = Path(temporary)
        case = shape_case(folder, SHAPES[shape])
        sizes = sizes_of(load_config(case.model))
        chosen = next(((method, plan) for method, plan in _plans(settings, sizes, stage) if plan <= limit), None)
        if chosen is None:
            return None
        method, planned = chosen
        batch = text_experiences(
            case,
            questions=settings.questions,
            samples=settings.samples,
            prompt_tokens=settings.prompt,
            response_tokens=settings.response,
        )
        work = Work.of(
            questions=settings.questions,
            samples=settings.samples,
            prompt=settings.prompt,
            response=settings.response,
        )
        lora = "lora_rank" in method
        needed = update_flops(sizes, work, lora=lora)
        if stage == "ppo":
            needed += update_flops(sizes, work, critic=True, lora=lora)
        spec = trainer_spec(
            case,
            dtype="bfloat16",
            device=device,
            kernels=kernels,
            micro_batch_tokens=settings.micro_batch_tokens,
            **method,
        )
        cuda = device == "cuda"
        with random_weights(device, "bfloat16"), one_rank(spec, folder) as trainer:
            trainer.reset_optimizer(stage)

            def update(seed: int) -> None:
                trainer.ppo_update(batch, seed) if stage == "ppo" else trainer.sft_step(sft_examples(batch))
                if cuda:
                    torch.cuda.synchronize()

            if cuda:
                torch.cuda.reset_peak_memory_stats()
            update(0)
            begin = time.perf_counter()
            for seed in range(1, settings.repeat + 1):
                update(seed)
            seconds = (time.perf_counter() - begin) / settings.repeat
            peak = torch.cuda.max_memory_allocated() if cuda else 0
            name = trainer.kernels.name
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
    tokens = len(batch) * (settings.prompt + settings.response)
    return Row(
        shape=shape,
        stage=stage,
        kernels=name,
        method=", ".join(f"{key}={value}" for key, value in method.items()),
        tokens=tokens,
        rows=work.rows,
        seconds=round(seconds, 3),
        tokens_per_s=round(tokens / seconds, 1),
        mfu=round(needed / seconds / _peak(), 4) if cuda else 0.0,
        planned_gib=round(planned / GIB, 1),
        peak_gib=round(peak / GIB, 1),
    )


def _plans(settings: argparse.Namespace, sizes: Any, stage: str) -> list[tuple[dict[str, Any], int]]:
    from actor import Layout
    from orchestrator.plan.training import Training, rank_memory

    place = (Layout(), 0)
    critic = place if stage == "ppo" else None
    plans = []
    for method in CHOICES:
        training = Training("bfloat16", settings.micro_batch_tokens, ("adapter.",), **method)
        plans.append((method, rank_memory(sizes, training, place, critic, 0).total))
    return plans


def _peak() -> float:
    """Operations a second of this GPU in bfloat16, dense."""
    from verl.utils.flops_counter import get_device_flops

    return float(get_device_flops(unit="B")) * 1e9


def table(rows: list[Row]) -> str:
    head = f"{'shape':6}{'stage':6}{'kernels':20}{'s':>8}{'tokens/s':>11}{'MFU':>7}{'plan GiB':>10}{'peak GiB':>10}  method"
    lines = [
        f"{r.shape:6}{r.stage:6}{r.kernels:20}{r.seconds:8.2f}{r.tokens_per_s:11,.0f}{100 * r.mfu:6.1f}%{r.planned_gib:10.1f}"
        f"{r.peak_gib:10.1f}  {r.method}"
        for r in rows
    ]
    return "\n".join([head, *lines])


def main() -> None:
    settings = parse()
    import torch

    if not torch.cuda.is_available():
        sys.exit("gpu_update: torch sees no GPU, and a CPU's figures would say nothing; run it on a machine with CUDA")
    from actor.kernels import kernel_facts, resolve_kernels

    # What a trainer rank runs with (actor.worker); read once, when CUDA starts.
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    free, total = torch.cuda.mem_get_info()
    limit = int((settings.memory_gib or total / 2**30) * 2**30 * 0.95)
    facts = kernel_facts("cuda")
    names = list(dict.fromkeys(resolve_kernels(kernels, "cuda", facts).name for kernels in settings.kernels))
    rows, left_out = [], []
    for shape in settings.shapes:
        for stage in settings.stages:
            for kernels in names:
                row = measure(settings, shape, stage, kernels, "cuda", limit)
                if row is None:
                    left_out.append(f"{shape} {stage}")
                    print(f"{shape} {stage}: no choice fits {limit / 2**30:.0f} GiB by the plan; left out", flush=True)
                    continue
                rows.append(row)
                print(table([row]).splitlines()[1], flush=True)
    print(f"\n{torch.cuda.get_device_name()}, {total / 2**30:.0f} GiB ({free / 2**30:.0f} free at the start)")
    print(table(rows))
    report = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "transformer_engine": facts.engine,
        "rows": [asdict(row) for row in rows],
        "left_out": left_out,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
