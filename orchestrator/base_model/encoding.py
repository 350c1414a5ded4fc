"""Rendered scenes through the frozen encoder, in several processes, kept in memory as standardised float16.

Neighbours: `render` makes the waveform, `rollout.model.encoder` the features; `build` hands them to the stages.
Invariants: a clip is encoded alone at its own length, as the rollout side does it; mean and scale come from train clips
only and ship with the model (`encoder.feature_mean`, `encoder.feature_scale`).
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from orchestrator.datasets.acoustic_qa.bank import Bank
from orchestrator.datasets.acoustic_qa.render import render
from orchestrator.datasets.acoustic_qa.scenes import Scene
from rollout.model.config import StepAudio2EncoderConfig
from rollout.model.encoder import AudioEncoder, log_mel

SMALLEST_SPREAD = 1e-3
_SHARE = 16  # clips handed to a process at a time


@dataclass(frozen=True, slots=True)
class Standard:
    """How raw features become standardised ones: (x - mean_D) * scale_D."""

    mean_D: npt.NDArray[np.float32]
    scale_D: npt.NDArray[np.float32]

    @classmethod
    def of(cls, features: Sequence[npt.NDArray[Any]]) -> Standard:
        """Mean and inverse spread over all frames of the given clips."""
        frames_ND = np.concatenate(features).astype(np.float32)
        spread = frames_ND.std(0, dtype=np.float64) + SMALLEST_SPREAD
        return cls(frames_ND.mean(0, dtype=np.float64).astype(np.float32), (1.0 / spread).astype(np.float32))

    def apply(self, features_TD: npt.NDArray[Any]) -> npt.NDArray[np.float16]:
        return ((features_TD.astype(np.float32) - self.mean_D) * self.scale_D).astype(np.float16)


class SceneEncoder:
    """Renders and encodes scenes. weights: `encoder.*` of the real encoder, without feature_mean and feature_scale."""

    def __init__(self, config: StepAudio2EncoderConfig, weights: dict[str, Tensor], bank: Bank, augment: bool) -> None:
        raw = StepAudio2EncoderConfig(**{**config.to_dict(), "feature_standardize": False})
        self.encoder = AudioEncoder(raw).eval()
        self.encoder.load_state_dict({name.removeprefix("encoder."): tensor for name, tensor in weights.items()})
        self.mels, self.bank, self.augment = config.n_mels, bank, augment

    @torch.no_grad()
    def __call__(self, scene: Scene) -> npt.NDArray[np.float32]:
        """Raw features [T25, D]."""
        return self.encoder(log_mel(render(scene, self.bank, self.augment), self.mels)).numpy()


def encode_scenes(encoder: SceneEncoder, scenes: Sequence[Scene], processes: int) -> Iterator[npt.NDArray[np.float32]]:
    """Raw features of every scene in order; with one process nothing is forked."""
    if processes <= 1:
        yield from map(encoder, scenes)
        return
    context = multiprocessing.get_context("fork")
    with context.Pool(processes, initializer=_receive, initargs=(encoder,)) as pool:
        yield from pool.imap(_encode, scenes, chunksize=_SHARE)


_worker: SceneEncoder | None = None


def _receive(encoder: SceneEncoder) -> None:
    global _worker
    torch.set_num_threads(1)
    _worker = encoder


def _encode(scene: Scene) -> npt.NDArray[np.float32]:
    if _worker is None:
        raise RuntimeError("this process was not given an encoder; use encode_scenes")
    return _worker(scene)
