"""Measurement finds what was put into a synthesised clip."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.functions.measure import RATE, Measurement, beat_of, measure


def tone(seconds: float, pitch_hz: float, level_db: float = 0.0, end_hz: float | None = None) -> np.ndarray:
    """Four harmonics with soft edges; from pitch_hz to end_hz on a log scale."""
    count = round(seconds * RATE)
    pitch = np.geomspace(pitch_hz, end_hz or pitch_hz, count)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    wave = np.sum([np.sin(n * phase) / n for n in range(1, 5)], axis=0)
    edge = min(count // 3, RATE // 100)
    wave[:edge] *= np.linspace(0, 1, edge)
    wave[-edge:] *= np.linspace(1, 0, edge)
    return (0.2 * 10 ** (level_db / 20) * wave).astype(np.float32)


def hit(seed: int = 0, seconds: float = 0.08) -> np.ndarray:
    """A burst of noise that dies away."""
    count = round(seconds * RATE)
    return (0.4 * np.random.default_rng(seed).standard_normal(count) * np.exp(-np.arange(count) * 4 / count)).astype(
        "f"
    )


def clip(seconds: float, *pieces: tuple[float, np.ndarray], noise_db: float = -60.0) -> np.ndarray:
    """Pieces at their times, over faint noise."""
    wave = np.random.default_rng(1).standard_normal(round(seconds * RATE)) * 10 ** (noise_db / 20)
    for start_s, piece in pieces:
        first = round(start_s * RATE)
        wave[first : first + len(piece)] += piece[: len(wave) - first]
    return wave.astype(np.float32)


def semitones(one: float, other: float) -> float:
    return abs(12 * math.log2(one / other))


def test_two_tones_are_found_with_time_pitch_and_level() -> None:
    found = measure(clip(2.0, (0.3, tone(0.4, 220.0, -9.0)), (1.1, tone(0.6, 554.4))))
    first, second = found.events
    assert (first.start_s, first.end_s) == pytest.approx((0.3, 0.7), abs=0.03)
    assert (second.start_s, second.end_s) == pytest.approx((1.1, 1.7), abs=0.03)
    assert first.level_db == pytest.approx(-9.0, abs=1.0) and second.level_db == 0.0
    assert first.pitch_hz is not None and semitones(first.pitch_hz, 220.0) < 0.5
    assert second.pitch_hz is not None and semitones(second.pitch_hz, 554.4) < 0.5
    assert found.seconds == 2.0 and found.fewest == 2 and found.beat_s is None


@pytest.mark.parametrize(("interval_s", "count"), [(0.25, 8), (0.5, 6), (0.9, 3)])
def test_regular_hits_have_a_beat_and_a_count(interval_s: float, count: int) -> None:
    starts = [0.2 + i * interval_s for i in range(count)]
    found = measure(clip(starts[-1] + 0.4, *((start, hit(i)) for i, start in enumerate(starts))))
    assert len(found.events) == found.fewest == count
    assert [event.start_s for event in found.events] == pytest.approx(starts, abs=0.03)
    assert found.beat_s == pytest.approx(interval_s, abs=0.02)


def test_a_ringing_sound_that_is_struck_again_counts_again() -> None:
    fading = np.exp(-np.arange(RATE) * 5 / RATE).astype(np.float32)
    struck = tone(1.0, 440.0) * fading
    again = tone(1.0, 440.0) * fading
    found = measure(clip(2.2, (0.2, struck), (0.9, again)))
    assert any(onset == pytest.approx(0.9, abs=0.06) for onset in found.onsets_s)
    assert found.fewest <= 2 <= len(found.onsets_s)


def test_glides_are_told_from_steady_tones_and_noise_has_no_pitch() -> None:
    rising, steady, falling, noise = (
        measure(clip(1.2, (0.2, piece))).events[0]
        for piece in (tone(0.8, 200.0, end_hz=400.0), tone(0.8, 300.0), tone(0.8, 600.0, end_hz=250.0), hit(3, 0.5))
    )
    assert rising.glide is not None and rising.glide > 4
    assert steady.glide is not None and abs(steady.glide) < 0.5
    assert falling.glide is not None and falling.glide < -4
    assert noise.pitch_hz is None and noise.glide is None


@pytest.mark.parametrize(
    "wave", [np.zeros(RATE), np.zeros(10), np.zeros(0), np.full(RATE, 1e-6)], ids=["silence", "short", "empty", "faint"]
)
def test_silence_has_no_events(wave: np.ndarray) -> None:
    assert measure(wave) == Measurement(len(wave) / RATE, ())


def test_sound_without_a_gap_is_one_event() -> None:
    found = measure(tone(1.0, 330.0))
    assert found.fewest == 1 and found.events[0].end_s - found.events[0].start_s > 0.9


@pytest.mark.parametrize("wave", [np.zeros((2, RATE)), np.array([0.0, math.nan] * 800)], ids=["stereo", "nan"])
def test_what_is_no_waveform_is_refused(wave: np.ndarray) -> None:
    with pytest.raises(ValueError, match="one finite channel"):
        measure(wave)


def test_the_same_clip_measures_the_same() -> None:
    wave = clip(1.5, (0.2, tone(0.3, 262.0)), (0.8, hit(4)))
    assert measure(wave) == measure(wave.copy())


@settings(max_examples=12)
@given(st.floats(100, 1000), st.floats(-12, 0), st.floats(0.15, 0.6), st.floats(0.15, 0.4))
def test_any_tone_before_a_reference_is_measured_within_the_tolerances_of_checking(
    pitch_hz: float, level_db: float, seconds: float, gap_s: float
) -> None:
    wave = clip(
        seconds + gap_s + 0.8, (0.1, tone(seconds, pitch_hz, level_db)), (0.1 + seconds + gap_s, tone(0.4, 440.0))
    )
    found = measure(wave)
    assert len(found.events) == 2
    event = found.events[0]
    assert event.start_s == pytest.approx(0.1, abs=0.05)
    assert event.end_s - event.start_s == pytest.approx(seconds, abs=0.08)
    assert event.level_db == pytest.approx(level_db, abs=2.0)
    assert event.pitch_hz is not None and semitones(event.pitch_hz, pitch_hz) < 1.0


def test_a_beat_needs_three_regular_onsets() -> None:
    assert beat_of([0.1, 0.6]) is None
    assert beat_of([0.1, 0.6, 1.1]) == pytest.approx(0.5)
    assert beat_of([0.1, 0.3, 1.1, 1.2]) is None
    assert beat_of([0.0, 0.5, 1.0, 2.0, 2.5]) == pytest.approx(0.5)  # one beat was missed
