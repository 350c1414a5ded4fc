"""What the feature cache hands on: a key and a length, no tensor."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FeatureRef:
    """Cached encoder features of one chunk of a recording. frames: T25, the rows of the [T25, D] array under `key`."""

    key: str
    frames: int
