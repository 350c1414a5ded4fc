"""Makes the waveform of a scene.

Neighbours: `scenes` says what sounds when, `bank` holds the sounds, `build` stores the clip.
Invariants: pure (the same scene and bank give the same samples); every event has the RMS its gain says, whatever was cut from its
recording; the clip never exceeds full scale, and scaling it down keeps relative levels.
"""

from __future__ import annotations

import numpy as np

from orchestrator.datasets.acoustic_qa.bank import REFERENCE_RMS, Bank
from orchestrator.datasets.acoustic_qa.library import RATE
from orchestrator.datasets.acoustic_qa.scenes import Event, Scene

ATTACK = RATE // 200  # 5 ms, no click at a cut
RELEASE = RATE * 15 // 1000
MAX_BOOST = 8.0  # of a window quieter than its recording; a near-silent one stays quiet instead of turning into hiss
PEAK = 0.98
TILT = 0.35  # strength of the train-only spectral tilt: about +-3 dB between low and high


def render(scene: Scene, bank: Bank, augment: bool = False) -> np.ndarray:
    """float32 [L] at 16 kHz, L = scene.seconds * RATE. augment: tilt the spectrum at random (train clips only).

    Raises KeyError for a recording that the bank does not hold.
    """
    rng = np.random.default_rng(scene.seed)
    clip_L = np.zeros(round(scene.seconds * RATE), np.float32)
    for event in scene.events:
        start = round(event.start_s * RATE)
        piece = _piece(event, bank.waves[event.recording_id])[: len(clip_L) - start]
        clip_L[start : start + len(piece)] += piece
    tilt = np.float32(rng.uniform(-TILT, TILT))
    if augment:
        clip_L[1:] += tilt * clip_L[:-1]
    clip_L += rng.standard_normal(len(clip_L), dtype=np.float32) * np.float32(REFERENCE_RMS * _ratio(scene.noise_db))
    clip_L *= np.float32(_ratio(scene.gain_db))
    peak = float(np.abs(clip_L).max(initial=0.0))
    if peak > PEAK:
        clip_L *= np.float32(PEAK / peak)
    return clip_L


def _piece(event: Event, wave_L: np.ndarray) -> np.ndarray:
    """The event's cut: resampled, levelled, with soft edges."""
    count = round(event.duration_s * RATE)
    first = event.offset_s * RATE * event.rate
    if event.rate == 1.0:
        piece = wave_L[round(first) : round(first) + count].copy()
    else:
        at = first + event.rate * np.arange(count)
        at = at[at <= len(wave_L) - 1]
        base = at.astype(np.int64)
        after = np.minimum(base + 1, len(wave_L) - 1)
        share = (at - base).astype(np.float32)
        piece = wave_L[base] * (1 - share) + wave_L[after] * share
    rms = float(np.sqrt(np.mean(piece * piece))) if len(piece) else 0.0
    if rms > 0.0:
        piece *= np.float32(min(MAX_BOOST, REFERENCE_RMS / rms) * _ratio(event.gain_db))
    attack, release = min(ATTACK, len(piece) // 3), min(RELEASE, len(piece) // 3)
    if release:
        piece[:attack] *= np.linspace(0.0, 1.0, attack, dtype=np.float32)
        piece[-release:] *= np.linspace(1.0, 0.0, release, dtype=np.float32)
    return piece


def _ratio(decibels: float) -> float:
    return float(10.0 ** (decibels / 20.0))
