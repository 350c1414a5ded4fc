"""The loop of supervised training that cold start and refinement share: a plan of batches, one optimizer step each.

Neighbours: `cold_start`, `refine`, `sft` bring examples and plan; the trainer does the steps. Invariants: the plan depends on seed and
sizes alone, so a loop that was cut off goes on at its last checkpoint with the batches that were left; the new weights are published
at the end, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from actor import OptimSpec, SftExample, StageSettings
from orchestrator import chaos
from orchestrator.checkpoints import STEP_PREFIX
from orchestrator.stages.context import StageContext


@dataclass(frozen=True, slots=True)
class Trained:
    """first_loss, last_loss: nats a response token; tokens: response tokens trained on."""

    examples: int
    steps: int
    first_loss: float
    last_loss: float
    tokens: int


def train(
    context: StageContext,
    examples: Sequence[SftExample],
    plan: Sequence[Sequence[int]],
    *,
    title: str,
    optim: OptimSpec | None = None,
) -> Trained:
    """One optimizer step for every batch of `plan` (indices into `examples`), then the weights go to the engines."""
    parts = context.parts
    losses: list[float] = list(context.progress.get("losses", []))
    if losses:
        context.resume(StageSettings("sft", optim))
    else:
        parts.trainer.reset_optimizer("sft", optim)
    every = parts.config.run.checkpoint_every
    with parts.progress.bar(title, len(plan)) as advance:
        advance(len(losses))
        for step, indices in enumerate(plan[len(losses) :], start=len(losses) + 1):
            context.settle()
            report = parts.trainer.sft_step([examples[i] for i in indices])
            losses.append(report.metrics["loss"])
            parts.tracker.log(step, {f"sft/{name}": value for name, value in report.metrics.items()})
            advance(1, f"loss {losses[-1]:.3f}")
            chaos.point(f"{context.stage.name}:step:{step}")
            pause = parts.observer.pause() if step < len(plan) else None
            if step < len(plan) and (step % every == 0 or pause):
                context.keep({"losses": losses}, f"{STEP_PREFIX}{context.stage.name}_{step:06d}")
            if pause:
                raise pause
    parts.tracker.log(len(plan), parts.publish(context.next_version()))
    tokens = sum(len(examples[i].response_ids) for indices in plan for i in indices)
    first, last = (losses[0], losses[-1]) if losses else (0.0, 0.0)
    return Trained(len(examples), len(losses), first, last, tokens)
