"""Plays Gravis UltraSound patches (.pat): one instrument's samples with their loops.

Neighbours: `cuts` asks for notes as it asks `voices.SoundFont`. Format: GF1 patch 1.10, headers of 129 (file), 63 (instrument), 47
(layer) and 96 bytes (sample). Invariants: deterministic; envelopes are left out (the samples have their own attack and decay); a note
is resampled from the sample whose range holds it; a file that cannot be read is a VoiceError.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orchestrator.datasets.acoustic_qa.voices import VoiceError

_HEADERS_BYTES, _LAYER_SAMPLES_AT, _SAMPLE_HEADER = 129 + 63 + 47, 129 + 63 + 6, struct.Struct("<7sBIIIHIIIH")
_SAMPLE_HEADER_BYTES, _MODES_AT = 96, 55
_SIXTEEN_BIT, _UNSIGNED, _LOOPED, _PING_PONG = 1, 2, 4, 8
MAX_SAMPLES = 64  # in a patch; real ones have up to a dozen


@dataclass(frozen=True, slots=True)
class _Sample:
    """wave_L: float32 in [-1, 1]; loop: its two ends in samples, or None; frequencies in Hz."""

    wave_L: np.ndarray
    loop: tuple[int, int] | None
    rate: int
    low_hz: float
    high_hz: float
    root_hz: float


class Patch:
    """One .pat file, rendered at `rate`."""

    def __init__(self, path: Path, rate: int) -> None:
        self.path, self.rate = path, rate
        try:
            self._samples = _read(path.read_bytes())
        except (OSError, struct.error, ValueError, IndexError) as error:
            raise VoiceError(f"{path} cannot be read as a GF1 patch: {error}") from error

    def notes(self, notes: Iterable[int], held_s: float) -> Iterator[np.ndarray]:
        """Notes by MIDI number: float32 [held_s * rate] each, shorter where a sample without loop ends before."""
        for note in notes:
            hertz = 440.0 * 2.0 ** ((note - 69) / 12)
            yield self._play(min(self._samples, key=lambda s: _distance(s, hertz)), hertz, int(held_s * self.rate))

    def _play(self, sample: _Sample, hertz: float, count: int) -> np.ndarray:
        at = np.arange(count) * (hertz / sample.root_hz * sample.rate / self.rate)
        if sample.loop is None:
            at = at[at < len(sample.wave_L) - 1]
        else:
            start, end = sample.loop
            at = np.where(at < end, at, start + np.mod(at - start, end - start))
        return np.interp(at, np.arange(len(sample.wave_L)), sample.wave_L).astype(np.float32)


def _distance(sample: _Sample, hertz: float) -> float:
    """0 inside the sample's range, else how far its root is, in octaves."""
    if sample.low_hz <= hertz <= sample.high_hz:
        return 0.0
    return abs(float(np.log2(hertz / sample.root_hz)))


def _read(blob: bytes) -> list[_Sample]:
    if blob[:12] != b"GF1PATCH110\0":
        raise ValueError("it does not begin with 'GF1PATCH110'")
    count = blob[_LAYER_SAMPLES_AT]
    if not 0 < count <= MAX_SAMPLES:
        raise ValueError(f"it claims {count} samples")
    samples, at = [], _HEADERS_BYTES
    for _ in range(count):
        _, _, size, loop_start, loop_end, rate, low, high, root, _ = _SAMPLE_HEADER.unpack_from(blob, at)
        modes = blob[at + _MODES_AT]
        at += _SAMPLE_HEADER_BYTES
        width = 2 if modes & _SIXTEEN_BIT else 1
        kind = {(2, False): "<i2", (2, True): "<u2", (1, False): "i1", (1, True): "u1"}[width, bool(modes & _UNSIGNED)]
        wave = np.frombuffer(blob, kind, size // width, at).astype(np.float32)
        wave = (wave - (2.0 ** (8 * width - 1) if modes & _UNSIGNED else 0.0)) / 2.0 ** (8 * width - 1)
        at += size
        loop = (loop_start // width, min(loop_end // width, len(wave) - 1)) if modes & _LOOPED else None
        if loop and modes & _PING_PONG:
            wave = np.concatenate([wave[: loop[1]], wave[loop[0] : loop[1]][::-1]])
            loop = (loop[0], len(wave) - 1)
        if not len(wave) or not rate or not root or (loop and loop[1] <= loop[0]):
            raise ValueError("a sample is empty or has no pitch")
        samples.append(_Sample(wave, loop, rate, low / 1000, high / 1000, root / 1000))
    return samples
