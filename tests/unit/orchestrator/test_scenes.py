"""Scenes are drawn by seed, stay in their split and keep within a clip."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_catalogue import recordings

from orchestrator.datasets.acoustic_qa.scenes import FAMILIES, MAX_SECONDS, Catalogue, Recording, Scene, SceneWriter

CATALOGUE = Catalogue(recordings())
WRITERS = {split: SceneWriter(CATALOGUE, split) for split in ("train", "held_out")}
families, splits, seeds = st.sampled_from(FAMILIES), st.sampled_from(sorted(WRITERS)), st.integers(0, 2**40)


@given(families, splits, seeds)
@settings(max_examples=300, deadline=None)
def test_events_stand_in_order_inside_the_clip_and_come_from_the_split(family: str, split: str, seed: int) -> None:
    scene = WRITERS[split].draw(family, seed)
    assert scene.events
    assert 0.9 <= scene.seconds <= MAX_SECONDS
    assert scene.events[-1].end_s < scene.seconds
    assert all(one.end_s < two.start_s for one, two in zip(scene.events, scene.events[1:], strict=False))
    assert all(event.recording_id.split("/")[1] == split for event in scene.events)
    assert max(event.gain_db for event in scene.events) == 0.0
    if split == "held_out":
        assert all(event.rate == 1.0 for event in scene.events)


@given(families, seeds)
@settings(max_examples=100, deadline=None)
def test_a_cut_never_reaches_beyond_its_recording(family: str, seed: int) -> None:
    seconds = {recording.id: recording.seconds for recording in CATALOGUE.recordings}
    for event in WRITERS["train"].draw(family, seed).events:
        assert (event.offset_s + event.duration_s) * event.rate <= seconds[event.recording_id] + 0.005


def test_the_same_seed_gives_the_same_scene_and_another_seed_another() -> None:
    writer = WRITERS["train"]
    assert writer.draw("notes", 5) == SceneWriter(Catalogue(reversed(recordings())), "train").draw("notes", 5)
    assert writer.draw("notes", 5) != writer.draw("notes", 6)
    assert writer.draw("notes", 5) != WRITERS["held_out"].draw("notes", 5)


def test_a_beat_is_steady() -> None:
    scene: Scene = WRITERS["train"].draw("beat", 3)
    assert scene.beat_s is not None
    gaps = [two.start_s - one.start_s for one, two in zip(scene.events, scene.events[1:], strict=False)]
    assert len(gaps) >= 2
    assert gaps == pytest.approx([scene.beat_s] * len(gaps), abs=0.002)


def test_families_without_recordings_are_not_offered() -> None:
    drums = [Recording(f"drum/{i}", "drum", "drum", "train", None, 0.3, "") for i in range(3)]
    assert SceneWriter(Catalogue(drums), "train").families() == ("levels", "repeats", "beat")


def test_an_empty_catalogue_and_an_unknown_family_are_refused() -> None:
    with pytest.raises(ValueError, match="build the bank"):
        Catalogue([])
    with pytest.raises(ValueError, match="one of word"):
        WRITERS["train"].draw("opera", 1)
    with pytest.raises(LookupError, match="no train recording of 'tuba' at note 60"):
        CATALOGUE.choose(random.Random(0), "tuba", "train", 60)
