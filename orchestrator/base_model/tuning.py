"""A short cold start on reasoning chains, as the demo's `sft` stage does it, to measure what the base will become.

Neighbours: `build` scores a copy of the base after it; nothing of it ships. Invariant: the adaptor stays frozen.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence

import torch

from orchestrator.base_model.exercises import ExerciseWriter
from orchestrator.base_model.network import reply_loss
from orchestrator.base_model.scoring import Item, audio_of
from orchestrator.base_model.stages import Optimizer, Progress, Schedule
from orchestrator.base_model.trees import TreePacker
from rollout.model.reference import StepAudio2ForCausalLM

log = logging.getLogger(__name__)


def cold_start(
    model: StepAudio2ForCausalLM,
    exercises: ExerciseWriter,
    packer: TreePacker,
    items: Sequence[Item],
    *,
    schedule: Schedule,
    seed: int,
) -> None:
    """Trains the decoder on the reasoned replies of `items`, `schedule.clips` questions a step, epoch by epoch."""
    audio = audio_of(model, [item.clip for item in items])
    optimizer = Optimizer([(model.model.parameters(), 1.0)], schedule, decay=0.0)
    rng = random.Random(f"cold start/{seed}")
    progress = Progress("cold start", schedule.steps)
    waiting: list[int] = []
    model.train()
    for step in range(schedule.steps):
        if len(waiting) < schedule.clips:
            waiting = rng.sample(range(len(items)), len(items))
        drawn = [waiting.pop() for _ in range(min(schedule.clips, len(items)))]
        replies = [exercises.answering(items[i].question, direct=False, think=True) for i in drawn]
        batch = packer.pack([(items[i].clip.frames, [reply]) for i, reply in zip(drawn, replies, strict=True)])
        loss = reply_loss(model, batch, torch.cat([audio[drawn[i]] for i in batch.order]))
        optimizer.step(loss, step)
        progress.add(step, loss=loss.item())
