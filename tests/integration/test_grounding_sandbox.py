"""Measuring a clip fits into a scoring process's usual limits."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rewards import RewardTerm, Sample
from rewards.golden import QUESTION_DEFAULTS
from rewards.registry import resolve
from rewards.sample_wire import encode_sample
from rewards.sandbox import Sandbox
from rewards.sandbox_wire import Limits, Unit

RATE = 16_000


@pytest.mark.slow
def test_clips_are_measured_and_languages_told_in_a_gibibyte(tmp_path: Path) -> None:
    wave = 1e-3 * np.random.default_rng(0).standard_normal(3 * RATE)
    wave[RATE : 2 * RATE] += 0.3 * np.sin(2 * np.pi * 330 * np.arange(RATE) / RATE)
    soundfile.write(tmp_path / "tone.wav", wave, RATE)
    audio = [{"path": str(tmp_path / "tone.wav"), "sha256": "", "seconds": 3.0}]
    heard = "The tone sits around 330 Hz. It starts at 1.0 s and lasts about 1 second."
    line = encode_sample(Sample("t", QUESTION_DEFAULTS | {"audio": audio}, "", heard, "tone", True, True, 20, 15))
    terms = [resolve(RewardTerm(name, 1.0, "audio")) for name in ("grounding", "language")]
    sandbox = Sandbox(terms, limits=Limits(timeout_s=5.0, memory_mb=1024, start_s=120.0), sys_path=sys.path)
    try:
        grounded, told = sandbox.score([line], [Unit(0, 0), Unit(0, 1)])
    finally:
        sandbox.close()
    assert grounded.score == 1.0 and grounded.parts["true"] == grounded.parts["checked"] == 3.0, grounded
    assert told.score == 1.0, told
