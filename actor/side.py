"""One trained model with the plan of its batches: what actor and critic have in common, wherever each of them lives.

Neighbours: `actor.trainer` owns one for the actor and one for the critic; `actor.ppo` and `actor.dpo` run their steps on it.
Invariants: answers come for every sequence of the list, in order, on every rank; Megatron's process groups are those of the
side's own layout while it works.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from actor.learner import Learner, StepResult, forward
from actor.megatron.batch import TokenSequence
from actor.megatron.parallel import World
from actor.planning import Planner, Step


@dataclass(frozen=True, slots=True)
class Side:
    """learner: the model and its optimizer; planner: packs sequences for `world`; world: its layout."""

    learner: Learner
    planner: Planner
    world: World

    def whole(self, sequences: Sequence[TokenSequence]) -> Step:
        """All sequences in one step."""
        return self.planner.steps(sequences)[0]

    def run(
        self, step: Step, read: Callable[[Any], torch.Tensor], model: torch.nn.Module | None = None
    ) -> list[torch.Tensor]:
        """`read(output)` [T] of each micro-batch, without gradients, as one tensor [R] a sequence; model: another one of this
        layout than the learner's own."""
        with self.world.active():
            parts = forward(
                self.learner.ddp if model is None else model,
                step.batches,
                lambda output, batch: batch.scatter(read(output)) if batch.counts else {},
            )
        return self.everyone({member: values for part in parts for member, values in part.items()}, step.sequences)

    def everyone(self, mine: dict[int, torch.Tensor], count: int) -> list[torch.Tensor]:
        """One tensor a sequence out of the shares of all data-parallel ranks."""
        everyone: dict[int, torch.Tensor] = {}
        for part in self.world.gather_data_parallel(mine):
            everyone.update(part)
        return [everyone[index] for index in range(count)]

    def per_sequence(self, results: Sequence[StepResult], name: str, count: int) -> list[torch.Tensor]:
        """What optimizer steps brought back under `name`, one tensor a sequence."""
        mine: dict[int, torch.Tensor] = {}
        for result in results:
            mine.update(result.per_sequence.get(name, {}))
        return self.everyone(mine, count)
