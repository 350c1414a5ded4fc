"""Audio files to waveforms: any format libsndfile reads (wav, flac, ogg, mp3), any rate, any channels -> mono float32 16 kHz.

Neighbours: `chunk` and `frozen` take the waveform; data-set checks call this to name bad clips before training.
Invariant: what comes back is finite and not empty, or an AudioError names the file and what to do.
"""

from __future__ import annotations

import hashlib
from math import gcd
from pathlib import Path

import numpy as np
import soundfile

from rollout.model.lengths import SAMPLE_RATE

MIN_SAMPLES = SAMPLE_RATE // 10  # 0.1 s: the shortest clip that still makes an audio token with room to spare


class AudioError(ValueError):
    """A recording that cannot be used; the message names the file and what to do."""


def load_audio(path: str | Path) -> np.ndarray:
    """Waveform [L] float32, mono (mean of the channels), 16 kHz.

    Raises AudioError when the file is missing, unreadable, empty, shorter than 0.1 s or holds values that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise AudioError(f"audio file {path} is missing; correct the path in the data set or restore the file")
    try:
        samples_LC, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise AudioError(
            f"audio file {path} cannot be decoded ({error}); give wav, flac, ogg or mp3, or make the file again"
        ) from error
    if not len(samples_LC):
        raise AudioError(f"audio file {path} is empty; make it again or leave the question out")
    wave = samples_LC.mean(axis=1, dtype=np.float32)
    if not np.isfinite(wave).all():
        raise AudioError(f"audio file {path} holds values that are not finite (NaN or infinity); make it again")
    if rate != SAMPLE_RATE:
        from scipy.signal import resample_poly  # slow to import, and most clips need none

        common = gcd(rate, SAMPLE_RATE)
        wave = resample_poly(wave, SAMPLE_RATE // common, rate // common)
    if len(wave) < MIN_SAMPLES:
        raise AudioError(
            f"audio file {path} lasts {len(wave) / SAMPLE_RATE:.3f} s; {MIN_SAMPLES / SAMPLE_RATE} s is the least, lengthen it"
        )
    return np.ascontiguousarray(wave, dtype=np.float32)


def sha256_of_file(path: str | Path) -> str:
    """Hex digest of a file's bytes, as `AudioRef.sha256` holds it. Raises AudioError when it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise AudioError(f"audio file {path} cannot be read ({error}); correct the path or the permissions") from error
