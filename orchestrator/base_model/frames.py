"""What a scene says about every audio position: kind, pitch, level, phase and time labels at 12.5 Hz.

Neighbours: `pseudo` turns labels into stand-in audio embeddings, `align` teaches the adaptor to produce them from real
features. Invariants: pure; label 0 of every factor means silence; grids are those of the reasoning chains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orchestrator.datasets.acoustic_qa.chains import (
    LEVEL_GRID_DB,
    PITCH_GRID_HZ,
    TIME_STEPS_PER_S,
    level_on_grid,
    pitch_on_grid,
)
from orchestrator.datasets.acoustic_qa.scenes import MAX_SECONDS, Scene

FRAME_S = 0.08  # one audio position of the decoder: 12.5 Hz
FACTORS = ("kind", "pitch", "level", "phase", "time")
ONSET, HELD, END = 1, 2, 3
_TIMES = round(MAX_SECONDS * TIME_STEPS_PER_S) + 2


@dataclass(frozen=True, slots=True)
class LabelSpace:
    """Sizes and indices of the label factors. kinds: all kinds of the catalogue, sorted."""

    kinds: tuple[str, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of labels of each factor, silence included."""
        return (len(self.kinds) + 1, len(PITCH_GRID_HZ) + 2, len(LEVEL_GRID_DB) + 1, END + 1, _TIMES + 1)

    def labels(self, scene: Scene, frames: int) -> npt.NDArray[np.int64]:
        """Labels [frames, 5]. Pitch 1 is "without pitch"; time is the 0.1 s step of the frame, and on an event's first
        and last frame that of its exact start and end."""
        labels_TF = np.zeros((frames, len(FACTORS)), dtype=np.int64)
        labels_TF[:, 4] = 1 + np.minimum((np.arange(frames) + 0.5) * FRAME_S * TIME_STEPS_PER_S, _TIMES - 1).astype(
            np.int64
        )
        starts = [_frame(e.start_s) for e in scene.events]
        for index, event in enumerate(scene.events):
            first = starts[index]
            until = max(first + 1, _frame(event.end_s))
            if index + 1 < len(starts):
                until = min(until, max(first + 1, starts[index + 1]))
            first, until = min(first, frames - 1), min(until, frames)
            pitch = 1 if event.pitch_hz is None else 2 + PITCH_GRID_HZ.index(pitch_on_grid(event.pitch_hz))
            labels_TF[first:until, 0] = 1 + self.kinds.index(event.kind)
            labels_TF[first:until, 1] = pitch
            labels_TF[first:until, 2] = 1 + LEVEL_GRID_DB.index(level_on_grid(event.gain_db))
            labels_TF[first:until, 3] = HELD
            labels_TF[until - 1, 3:] = END, 1 + _time_step(event.end_s)
            labels_TF[first, 3:] = ONSET, 1 + _time_step(event.start_s)
        return labels_TF


def _frame(seconds: float) -> int:
    """Frame border nearest to a time."""
    return int(seconds / FRAME_S + 0.5)


def _time_step(seconds: float) -> int:
    return min(int(seconds * TIME_STEPS_PER_S + 0.5), _TIMES - 1)


def kinds_of(domains: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """All kinds of a catalogue, sorted, for a LabelSpace."""
    return tuple(sorted({kind for kinds in domains.values() for kind in kinds}))
