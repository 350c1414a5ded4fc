"""Waveforms for reward functions that listen.

Neighbours: `Clip.waveform` calls this inside a scoring process; `rollout.audio` decodes. Invariants: a file is decoded once a
process and rate; nothing is imported before a function asks for sound.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

KEPT = 32  # clips; ten seconds take 0.6 MB at 16 kHz


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
