"""The training stages of the base: pretrain on stand-in audio, align the adaptor, train jointly on real features.

Neighbours: `clips` gives the material, `network` the forward pass, `build` runs the stages in turn.
Invariants: lengths are steps, never seconds, so the same seed gives the same weights on the same machine; every stage
draws from its own generators.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.base_model.clips import Clip, ClipSource
from orchestrator.base_model.exercises import Mix
from orchestrator.base_model.frames import FACTORS
from orchestrator.base_model.network import PseudoAudio, reply_loss
from orchestrator.base_model.trees import TreePacker
from rollout.model.reference import StepAudio2ForCausalLM

log = logging.getLogger(__name__)
REPORT_EVERY = 100
FEATURE_NOISE, FEATURE_DROP = 0.25, 0.1  # of standardised features; held-out alignment gets better with both
ALIGN_CE_WEIGHT = 0.3
Report = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Schedule:
    """steps of `clips` clips each; lr rises over `warmup` steps and falls along a cosine to `floor` of it."""

    steps: int
    clips: int
    lr: float
    warmup: int = 60
    floor: float = 0.02

    def rate(self, step: int) -> float:
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * (self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * done)))


class Optimizer:
    """AdamW with a schedule over groups of parameters with a learning-rate factor each."""

    def __init__(
        self, groups: Sequence[tuple[Iterable[nn.Parameter], float]], schedule: Schedule, decay: float
    ) -> None:
        self.schedule = schedule
        found = [(list(parameters), factor) for parameters, factor in groups]
        self.parameters = [parameter for parameters, _ in found for parameter in parameters]
        self.adamw = torch.optim.AdamW(
            [{"params": parameters, "factor": factor} for parameters, factor in found],
            lr=schedule.lr,
            weight_decay=decay,
            betas=(0.9, 0.98),
        )

    def step(self, loss: Tensor, step: int) -> None:
        for group in self.adamw.param_groups:
            group["lr"] = self.schedule.rate(step) * group["factor"]
        self.adamw.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.adamw.step()


class Progress:
    """Running mean of losses, logged every REPORT_EVERY steps."""

    def __init__(self, stage: str, steps: int, report: Report | None = None, report_every: int = 1) -> None:
        self.stage, self.steps, self.report, self.report_every = stage, steps, report, report_every
        self.mean: dict[str, float] = {}
        self.started = time.monotonic()

    def add(self, step: int, **losses: float) -> None:
        for name, value in losses.items():
            self.mean[name] = value if name not in self.mean else 0.95 * self.mean[name] + 0.05 * value
        done = step + 1
        if done % REPORT_EVERY == 0 or done == self.steps:
            figures = " ".join(f"{name} {value:.3f}" for name, value in self.mean.items())
            log.info("%s %d/%d %s, %.0f s", self.stage, done, self.steps, figures, time.monotonic() - self.started)
        if self.report is not None and (done % self.report_every == 0 or done == self.steps):
            self.report(done)


def pretrain(
    model: StepAudio2ForCausalLM,
    pseudo: PseudoAudio,
    source: ClipSource,
    packer: TreePacker,
    *,
    schedule: Schedule,
    mix: Mix,
    seed: int,
    noise: float = 0.3,
    report: Report | None = None,
    report_every: int = 500,
) -> None:
    """Teaches the decoder to answer, to reason and to describe from stand-in audio; every clip is new.

    The first fifth hears without noise: the circuits that compare and count form sooner there.
    """
    decoder = [*model.model.parameters()]
    optimizer = Optimizer([([*decoder, *pseudo.parameters()], 1.0)], schedule, decay=0.01)
    rng, numbers = random.Random(f"pretrain/{seed}"), np.random.default_rng([seed, 1])
    progress = Progress("pretrain", schedule.steps, report, report_every)
    model.train()
    for step in range(schedule.steps):
        scenes = [source.scene(rng.getrandbits(48)) for _ in range(schedule.clips)]
        clips = [source.clip(scene) for scene in scenes]
        batch = packer.pack([(clip.frames, source.exercises(clip.scene, 0, mix, rng)) for clip in clips])
        heard = pseudo.heard(
            [clips[i].labels_TF for i in batch.order], noise if step >= schedule.steps // 5 else 0.05, numbers
        )
        loss = reply_loss(model, batch, heard)
        optimizer.step(loss, step)
        progress.add(step, loss=loss.item())


def augmented(features: Sequence[np.ndarray], rng: np.random.Generator, device: torch.device) -> list[Tensor]:
    """Standardised features [T25, D] of clips as float32 tensors, with noise and dropped channels (a mask a clip)."""
    out = []
    for clip in features:
        x = clip.astype(np.float32)
        x += FEATURE_NOISE * rng.standard_normal(x.shape, dtype=np.float32)
        x *= rng.random(x.shape[1]) >= FEATURE_DROP
        out.append(torch.from_numpy(x).to(device))
    return out


def align_loss(audio_NH: Tensor, labels_NF: Tensor, pseudo: PseudoAudio) -> tuple[Tensor, Tensor, Tensor]:
    """How far the adaptor's output is from the stand-in vectors.

    Returns (loss, unexplained share of variance, accuracy by factor [5] over sounding frames).
    """
    with torch.no_grad():
        wanted = pseudo(labels_NF)
        variance = wanted.var(0).mean()
        centre = wanted.mean(0)
        tables = [weight - weight.mean(0) for weight in pseudo.weights]
    unexplained = ((audio_NH - wanted) ** 2).mean() / variance
    sounding = labels_NF[:, 0] > 0
    entropies, accuracies = [], []
    for factor, table in enumerate(tables):
        logits = (audio_NH - centre) @ table.T / (table**2).sum(1).mean() * 6.0
        entropies.append(F.cross_entropy(logits, labels_NF[:, factor]))
        accuracies.append((logits.argmax(-1) == labels_NF[:, factor])[sounding].float().mean())
    return unexplained + ALIGN_CE_WEIGHT * torch.stack(entropies).sum(), unexplained, torch.stack(accuracies)


def align(
    model: StepAudio2ForCausalLM,
    pseudo: PseudoAudio,
    clips: Sequence[Clip],
    *,
    schedule: Schedule,
    seed: int,
    report: Report | None = None,
    report_every: int = 300,
) -> None:
    """Teaches the adaptor alone to turn real features into the stand-in vectors of their scene."""
    device = model.lm_head.weight.device
    optimizer = Optimizer([(model.adapter.parameters(), 1.0)], schedule, decay=0.05)
    rng, numbers = random.Random(f"align/{seed}"), np.random.default_rng([seed, 2])
    progress = Progress("align", schedule.steps, report, report_every)
    for step in range(schedule.steps):
        drawn = [rng.choice(clips) for _ in range(schedule.clips)]
        audio = model.adapter.forward_many(augmented([_features(clip) for clip in drawn], numbers, device))
        labels = torch.from_numpy(np.concatenate([clip.labels_TF for clip in drawn])).to(device)
        loss, unexplained, accuracy = align_loss(audio, labels, pseudo)
        optimizer.step(loss, step)
        heard = dict(zip(FACTORS, accuracy.tolist(), strict=True))
        progress.add(step, unexplained=unexplained.item(), **heard)


@torch.no_grad()
def alignment(model: StepAudio2ForCausalLM, pseudo: PseudoAudio, clips: Sequence[Clip]) -> dict[str, float]:
    """Unexplained share and accuracy by factor on clips as they are."""
    device = model.lm_head.weight.device
    features = [torch.from_numpy(_features(clip).astype(np.float32)).to(device) for clip in clips]
    labels = torch.from_numpy(np.concatenate([clip.labels_TF for clip in clips])).to(device)
    _, unexplained, accuracy = align_loss(model.adapter.forward_many(features), labels, pseudo)
    return {"unexplained": unexplained.item(), **dict(zip(FACTORS, accuracy.tolist(), strict=True))}


def train_jointly(
    model: StepAudio2ForCausalLM,
    pseudo: PseudoAudio,
    clips: Sequence[Clip],
    source: ClipSource,
    packer: TreePacker,
    *,
    schedule: Schedule,
    mix: Mix,
    seed: int,
    pseudo_share: float = 0.25,
    align_weight: float = 0.3,
    adapter_factor: float = 0.5,
    noise: float = 0.4,
    report: Report | None = None,
    report_every: int = 300,
) -> None:
    """Adaptor and decoder together on real features; some steps stay on stand-in audio, whose clips never repeat."""
    device = model.lm_head.weight.device
    groups = [(model.adapter.parameters(), adapter_factor), ([*model.model.parameters(), *pseudo.parameters()], 1.0)]
    optimizer = Optimizer(groups, schedule, decay=0.02)
    rng, numbers = random.Random(f"joint/{seed}"), np.random.default_rng([seed, 3])
    progress = Progress("joint", schedule.steps, report, report_every)
    for step in range(schedule.steps):
        model.train()
        if rng.random() < pseudo_share:
            drawn = [source.clip(source.scene(rng.getrandbits(48))) for _ in range(schedule.clips)]
        else:
            drawn = [rng.choice(clips) for _ in range(schedule.clips)]
        batch = packer.pack([(c.frames, source.exercises(c.scene, rng.getrandbits(32), mix, rng)) for c in drawn])
        ordered = [drawn[i] for i in batch.order]
        if ordered[0].features is None:
            loss = reply_loss(model, batch, pseudo.heard([clip.labels_TF for clip in ordered], noise, numbers))
            progress.add(step, pseudo=loss.item())
        else:
            audio = model.adapter.forward_many(augmented([_features(clip) for clip in ordered], numbers, device))
            labels = torch.from_numpy(np.concatenate([clip.labels_TF for clip in ordered])).to(device)
            replies = reply_loss(model, batch, audio)
            loss = replies + align_weight * align_loss(audio, labels, pseudo)[0]
            progress.add(step, real=replies.item())
        optimizer.step(loss, step)


def _features(clip: Clip) -> np.ndarray:
    if clip.features is None:
        raise ValueError(f"a clip of family {clip.scene.family!r} has no features; encode it first")
    return clip.features
