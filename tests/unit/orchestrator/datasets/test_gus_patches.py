"""Patches: notes sound at their pitch from the right sample, loops go on, damaged files are named."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from orchestrator.datasets.acoustic_qa.library import RATE
from orchestrator.datasets.acoustic_qa.patches import Patch
from orchestrator.datasets.acoustic_qa.voices import VoiceError

SAMPLE_RATE = 22_050
PERIODS = 20


def make_sample(root_hz: float, low_hz: float, high_hz: float, modes: int) -> bytes:
    """Whole periods of a sine as 16-bit signed or 8-bit unsigned, looped over all of it when modes says so."""
    count = round(PERIODS * SAMPLE_RATE / root_hz)
    wave = np.sin(2 * np.pi * PERIODS * np.arange(count) / count)
    body = (wave * 30_000).astype("<i2").tobytes() if modes & 1 else (wave * 120 + 128).astype("u1").tobytes()
    exact_root = PERIODS * SAMPLE_RATE / count
    header = struct.pack(
        "<7sBIIIHIIIH",
        b"test",
        0,
        len(body),
        0,
        len(body),
        SAMPLE_RATE,
        round(low_hz * 1000),
        round(high_hz * 1000),
        round(exact_root * 1000),
        0,
    )
    return header + bytes(55 - len(header)) + bytes([modes]) + bytes(40) + body


def make_patch(path: Path, *samples: bytes) -> Path:
    head = b"GF1PATCH110\0" + bytes(129 + 63 - 12)
    layer = bytes(6) + bytes([len(samples)]) + bytes(40)
    path.write_bytes(head + layer + b"".join(samples))
    return path


def loudest_hz(wave: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(wave, 4 * RATE)).argmax()) / 4


@pytest.mark.parametrize("modes", [1 | 4, 2 | 4], ids=["16-bit", "8-bit unsigned"])
def test_a_looped_note_lasts_as_long_as_it_is_held_at_its_pitch(tmp_path: Path, modes: int) -> None:
    patch = Patch(make_patch(tmp_path / "x.pat", make_sample(440.0, 20.0, 9000.0, modes)), RATE)
    for note, wave in zip((57, 69, 76), patch.notes((57, 69, 76), 1.0), strict=True):
        assert len(wave) == RATE
        assert loudest_hz(wave) == pytest.approx(440.0 * 2 ** ((note - 69) / 12), rel=0.01)
        assert np.abs(wave[-2000:]).max() > 0.8


def test_a_note_without_loop_ends_with_its_sample(tmp_path: Path) -> None:
    patch = Patch(make_patch(tmp_path / "x.pat", make_sample(440.0, 20.0, 9000.0, 1)), RATE)
    (wave,) = patch.notes([69], 1.0)
    assert len(wave) == pytest.approx(PERIODS / 440.0 * RATE, abs=3)


def test_a_note_is_played_from_the_sample_whose_range_holds_it(tmp_path: Path) -> None:
    low, high = make_sample(220.0, 20.0, 300.0, 1), make_sample(880.0, 300.0, 9000.0, 1)
    patch = Patch(make_patch(tmp_path / "x.pat", low, high), RATE)
    lengths = [len(wave) for wave in patch.notes([57, 81], 1.0)]
    assert lengths == pytest.approx([PERIODS / 220.0 * RATE, PERIODS / 880.0 * RATE], abs=3)


@pytest.mark.parametrize("content", [b"", b"GF1PATCH110\0", b"RIFF" + bytes(400), b"GF1PATCH110\0" + b"\xff" * 400])
def test_a_damaged_patch_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.pat").write_bytes(content)
    with pytest.raises(VoiceError, match=r"broken\.pat"):
        Patch(tmp_path / "broken.pat", RATE)
