"""Rendering: what a scene says is what the clip holds (measured in the samples), and the same every time."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator.datasets.acoustic_qa.bank import REFERENCE_RMS, Bank
from orchestrator.datasets.acoustic_qa.library import RATE
from orchestrator.datasets.acoustic_qa.render import render
from orchestrator.datasets.acoustic_qa.scenes import Event, Recording, Scene
from orchestrator.datasets.acoustic_qa.voices import ToneShape, tone

QUIET_NOISE_DB = -80.0


def make_bank() -> Bank:
    waves = {
        "a4": tone("sine", 440.0, RATE, ToneShape(1.3, 0.01, 0.0, 0.0)),
        "saw": tone("sawtooth", 220.0, RATE, ToneShape(1.3, 0.01, 6.0, 0.0)),
        "click": np.concatenate([np.ones(4), np.zeros(2000)]).astype(np.float32),
    }
    waves = {k: (w / np.sqrt(np.mean(w**2)) * REFERENCE_RMS).astype(np.float32) for k, w in waves.items()}
    recordings = tuple(Recording(k, k, "tone", "train", 69, len(w) / RATE, "test") for k, w in waves.items())
    return Bank(recordings, waves, "", ())


def event(name: str = "a4", **changes: float) -> Event:
    values = {"start_s": 0.2, "duration_s": 0.5, "gain_db": 0.0, "rate": 1.0, "offset_s": 0.0} | changes
    return Event(recording_id=name, kind=name, domain="tone", midi=69, **values)


def scene(*events: Event, seed: int = 1, gain_db: float = 0.0, noise_db: float = QUIET_NOISE_DB) -> Scene:
    return Scene(events, 2.0, noise_db, gain_db, seed, "levels")


def rms(clip: np.ndarray, start_s: float, end_s: float) -> float:
    return float(np.sqrt(np.mean(clip[int(start_s * RATE) : int(end_s * RATE)] ** 2)))


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("name", ["a4", "saw"])
def test_a_gain_between_two_events_is_their_level_difference_in_the_clip(name: str, augment: bool) -> None:
    clip = render(scene(event(name), event(name, start_s=1.2, gain_db=-9.0)), make_bank(), augment)
    difference = 20 * np.log10(rms(clip, 1.25, 1.65) / rms(clip, 0.25, 0.65))
    assert difference == pytest.approx(-9.0, abs=0.2)


def test_sound_is_where_the_scene_places_it_and_nowhere_else() -> None:
    clip = render(scene(event(start_s=0.5, duration_s=0.4)), make_bank())
    assert len(clip) == 2 * RATE and clip.dtype == np.float32
    assert rms(clip, 0.52, 0.88) > 0.09
    assert rms(clip, 0.0, 0.499) < 1e-4 and rms(clip, 0.901, 2.0) < 1e-4


@pytest.mark.parametrize(("rate", "hertz"), [(1.0, 440.0), (1.1, 484.0), (0.9, 396.0)])
def test_rate_shifts_the_pitch(rate: float, hertz: float) -> None:
    clip = render(scene(event(rate=rate)), make_bank())
    spectrum = np.abs(np.fft.rfft(clip[int(0.25 * RATE) : int(0.65 * RATE)], RATE))
    assert int(spectrum.argmax()) == pytest.approx(hertz, abs=2)


def test_a_window_is_levelled_whatever_part_of_the_recording_it_takes() -> None:
    bank = make_bank()
    early = render(scene(event("saw", duration_s=0.3)), bank)
    late = render(scene(event("saw", duration_s=0.3, offset_s=0.9)), bank)
    assert rms(early, 0.22, 0.48) == pytest.approx(rms(late, 0.22, 0.48), rel=0.05)


def test_noise_lies_at_its_level_below_the_loudest_event() -> None:
    clip = render(scene(event(), noise_db=-30.0), make_bank())
    assert 20 * np.log10(rms(clip, 1.0, 2.0) / REFERENCE_RMS) == pytest.approx(-30.0, abs=0.3)


def test_a_loud_clip_is_scaled_below_full_scale_and_keeps_level_differences() -> None:
    events = (event("click", duration_s=0.1), event("click", start_s=1.2, duration_s=0.1, gain_db=-6.0))
    clip = render(scene(*events, gain_db=30.0), make_bank())
    assert np.abs(clip).max() <= 0.981
    assert 20 * np.log10(rms(clip, 1.2, 1.3) / rms(clip, 0.2, 0.3)) == pytest.approx(-6.0, abs=0.1)


def test_the_same_scene_gives_the_same_samples_and_another_seed_other_noise() -> None:
    bank = make_bank()
    one = render(scene(event(), noise_db=-30.0), bank, augment=True)
    assert np.array_equal(one, render(scene(event(), noise_db=-30.0), bank, augment=True))
    assert not np.array_equal(one, render(scene(event(), noise_db=-30.0, seed=2), bank, augment=True))


def test_rendering_leaves_the_bank_as_it_was() -> None:
    bank = make_bank()
    before = {k: w.copy() for k, w in bank.waves.items()}
    render(scene(event(gain_db=-12.0), event("saw", start_s=1.0)), bank, augment=True)
    assert all(np.array_equal(before[k], bank.waves[k]) for k in before)


def test_an_unknown_recording_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        render(scene(event("missing")), make_bank())
