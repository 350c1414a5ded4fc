"""What to change in a plan that does not fit: the first change, or the shortest chain of changes, with which it does.

Neighbours: `assess` judges each attempt. Invariants: pure; a suggestion was tried and fits, its figure is that of the changed plan;
changes that cost little time come first; world sizes stay as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from orchestrator.config.checks import problems
from orchestrator.config.schema import ExperimentConfig
from orchestrator.plan.assess import Assessment, assess
from orchestrator.plan.memory import GIB
from orchestrator.plan.sizes import ModelSizes

LORA_RANK = 16
ENGINE_SHARE = 0.9  # of its GPU, for an engine that has the GPU to itself
SIZES = (2, 4, 8)
MOST_CHANGES = 4


@dataclass(frozen=True, slots=True)
class Advice:
    """overrides: as one types them; assessment: of the plan with them."""

    overrides: tuple[str, ...]
    assessment: Assessment

    def __str__(self) -> str:
        worst = self.assessment.worst
        return f"{' '.join(self.overrides)} (then at most {worst.memory.total / GIB:.1f} GiB, {worst.name})"


def advise(config: ExperimentConfig, sizes: ModelSizes) -> Advice | None:
    """None when none of the changes known here makes the plan fit."""
    steps = list(_steps(config, sizes))
    for length in range(1, MOST_CHANGES + 1):
        for chosen in combinations(steps, length):
            changes = [change for step in chosen for change in step]
            if len({key for key, _ in changes}) < len(changes):
                continue
            changed = copy.deepcopy(config)
            for key, value in changes:
                _set(changed, key, value)
            if problems(changed):
                continue
            found = assess(changed, sizes)
            if found.fits:
                return Advice(tuple(f"{key}={_text(value)}" for key, value in changes), found)
    return None


def refusal(found: Assessment, advice: Advice | None) -> str:
    """Why a plan cannot be, and what to change."""
    lines = ["the plan cannot fit:", *(f"  - {problem}" for problem in found.problems)]
    lines.append(
        f"try: {advice}"
        if advice
        else "no change of recompute, layout or LoRA on these GPUs helps; take more of them "
        "(cluster=gpus_4x8, cluster=gpus_16x8) or a smaller model"
    )
    return "\n".join(lines)


def _steps(config: ExperimentConfig, sizes: ModelSizes) -> Iterator[tuple[tuple[str, object], ...]]:
    """Single changes, each one key or keys that go together; cheap ones first."""
    actor, rollout = config.actor, config.rollout
    if rollout.gpu_memory_utilization != ENGINE_SHARE:
        yield (("rollout.gpu_memory_utilization", ENGINE_SHARE),)
    later = {"none": ("selective", "full"), "selective": ("full",), "full": ()}
    for recompute in later[actor.recompute]:
        yield (("actor.recompute", recompute),)
    if actor.tensor_parallel > 1 and not actor.sequence_parallel:
        yield (("actor.sequence_parallel", True),)
    for size in SIZES:
        if size > actor.tensor_parallel:
            yield ("actor.tensor_parallel", size), ("actor.sequence_parallel", True)
    for size in SIZES:
        if size > actor.pipeline_parallel and sizes.layers % size == 0:
            yield (("actor.pipeline_parallel", size),)
    if not actor.offload_optimizer:
        yield (("actor.offload_optimizer", True),)
    ranks = rollout.workers * rollout.tensor_parallel
    for size in SIZES:
        if size > rollout.tensor_parallel and ranks % size == 0:
            yield ("rollout.tensor_parallel", size), ("rollout.workers", ranks // size)
    if not actor.lora.rank:
        yield (("actor.lora.rank", LORA_RANK),)


def _set(config: ExperimentConfig, key: str, value: object) -> None:
    *path, leaf = key.split(".")
    target: object = config
    for part in path:
        target = getattr(target, part)
    setattr(target, leaf, value)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
