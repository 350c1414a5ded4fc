"""A catalogue with a few sounds of every domain, and noise for their waveforms."""

from __future__ import annotations

import random

import numpy as np

from orchestrator.datasets.acoustic_qa.bank import Bank
from orchestrator.datasets.acoustic_qa.scenes import MIDI_HIGH, MIDI_LOW, Recording

KINDS = {
    "speech": ("one", "two", "seven", "monday", "friday"),
    "sound": ("dog", "owl", "water", "train", "cow"),
    "drum": ("drum",),
    "music": ("piano", "violin", "organ", "flute"),
    "tone": ("sine",),
}
SECONDS = {"speech": 0.5, "sound": 2.5, "drum": 0.3, "music": 1.3, "tone": 1.3}


def recordings() -> tuple[Recording, ...]:
    found = []
    for split in ("train", "held_out"):
        for domain, kinds in KINDS.items():
            for kind in kinds:
                for midi in range(MIDI_LOW, MIDI_HIGH + 1) if domain in ("music", "tone") else (None,):
                    name = f"{kind}/{split}/{midi}"
                    found.append(Recording(name, kind, domain, split, midi, SECONDS[domain], "test"))
    return tuple(found)


def small_bank() -> Bank:
    """Noise as long as each recording, RMS 0.1."""
    waves = {}
    for recording in recordings():
        rng = np.random.default_rng(random.Random(recording.id).getrandbits(32))
        wave = rng.standard_normal(round(recording.seconds * 16000)).astype(np.float32)
        waves[recording.id] = wave * np.float32(0.1 / np.sqrt(np.mean(wave**2)))
    return Bank(recordings(), waves, "test", ())
