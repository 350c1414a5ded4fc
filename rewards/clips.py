"""Recordings of a question, and their waveforms for reward functions that listen.

Neighbours: `Sample.clips` and `Clip.waveform` call this inside a scoring process, `http_api` before it; `rollout.audio` decodes.
Invariants: every recording that a function can reach is one of `recordings`; a file is decoded once a process and rate; nothing
is imported before a function asks for sound.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

KEPT = 32  # clips; ten seconds take 0.6 MB at 16 kHz


def recordings(question: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(place, recording) of a question as fields, in the order of the prompt: `history[0].audio[1]`, then `audio[0]`.

    A turn that is no object has none.
    """
    for number, turn in enumerate(question.get("history") or ()):
        if isinstance(turn, Mapping):
            yield from ((f"history[{number}].audio[{i}]", clip) for i, clip in enumerate(turn.get("audio") or ()))
    yield from ((f"audio[{i}]", clip) for i, clip in enumerate(question.get("audio") or ()))


@lru_cache(maxsize=KEPT)
def load_waveform(path: str, rate: int) -> Any:
    """float32 [samples] mono, read-only. Raises AudioError naming the file, ValueError for a rate that is not positive."""
    if rate <= 0:
        raise ValueError(f"a sample rate is positive, not {rate}")
    from math import gcd

    import numpy as np

    from rollout.audio.decode import SAMPLE_RATE, load_audio

    wave = load_audio(path)
    if rate != SAMPLE_RATE:
        from scipy.signal import resample_poly

        common = gcd(rate, SAMPLE_RATE)
        wave = resample_poly(wave, rate // common, SAMPLE_RATE // common).astype(np.float32)
    wave.flags.writeable = False
    return wave
