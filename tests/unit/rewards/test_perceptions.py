"""Stated perceptions are found and checked against truth."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.datasets.acoustic_qa.chains import chain
from rewards import Claim, ClaimKind, stated_claims, true_share
from rollout.messages import AnswerKind, Question


def event(kind: str, start: float, end: float, pitch: float | None = None, level: float = 0.0) -> dict[str, Any]:
    return {"kind": kind, "start_s": start, "end_s": end, "pitch_hz": pitch, "level_db": level}


def truth(*events: dict[str, Any], beat: float | None = None) -> dict[str, Any]:
    return {"events": list(events), "seconds": 4.0, "beat_s": beat}


DOG_THEN_VIOLIN = truth(event("dog", 0.2, 0.9, level=-9.0), event("violin", 1.2, 1.6, pitch=440.0))
MELODY = truth(*(event("flute", 0.5 * i, 0.5 * i + 0.4, pitch) for i, pitch in enumerate((262.0, 330.0, 392.0))))
BEAT = truth(*(event("snare drum", 0.1 + 0.5 * i, 0.3 + 0.5 * i) for i in range(4)), beat=0.5)

GOLDEN = [
    # reasoning, truth, task, true claims, stated claims
    ("I hear seven. So seven.", truth(event("seven", 0.2, 0.8)), "word", 1, 1),
    ("I hear eight. So eight.", truth(event("seven", 0.2, 0.8)), "word", 0, 1),
    ("I hear a dog, then a violin. So dog.", DOG_THEN_VIOLIN, "order", 2, 2),
    ("I hear a violin, then a dog. So violin.", DOG_THEN_VIOLIN, "order", 0, 2),
    ("I hear a dog. So dog.", DOG_THEN_VIOLIN, "order", 1, 2),  # the violin is left out
    ("I hear a dog, then a violin, then water. So dog.", DOG_THEN_VIOLIN, "order", 2, 3),
    ("I hear a flute. So flute.", MELODY, "instrument", 1, 1),  # one instrument, three notes
    ("I hear a snare drum. So snare drum.", BEAT, "source", 1, 1),
    ("Events at 0.2 s, 1.2 s. So 2.", DOG_THEN_VIOLIN, "count", 2, 2),
    ("Events at 0.3 s, 1.1 s. So 2.", DOG_THEN_VIOLIN, "count", 2, 2),  # 0.1 s off is the grid's rounding
    ("Events at 0.4 s, 1.2 s. So 2.", DOG_THEN_VIOLIN, "count", 1, 2),
    ("Events at 0.2 s, 1.2 s, 1.8 s. So 3.", DOG_THEN_VIOLIN, "count", 2, 3),
    ("Events at 0.2 s. So 1.", DOG_THEN_VIOLIN, "count", 1, 2),
    ("Level 1 is about -9 dB. Level 2 is about 0 dB. So second.", DOG_THEN_VIOLIN, "louder", 2, 2),
    ("Level 1 is about -6 dB. Level 2 is about -6 dB. So second.", DOG_THEN_VIOLIN, "louder", 1, 2),
    ("Level 3 is about 0 dB. So second.", DOG_THEN_VIOLIN, "louder", 0, 1),
    ("Level 0 is about 0 dB. So second.", DOG_THEN_VIOLIN, "louder", 0, 1),
    ("Note 1 is about 262 Hz. Note 2 is about 523 Hz. So second.", MELODY, "higher", 1, 2),
    ("Note 2 is about 370 Hz. So second.", MELODY, "higher", 1, 1),  # within a factor of e^0.19
    ("Note 1 is about 440 Hz. So first.", DOG_THEN_VIOLIN, "higher", 0, 1),  # a dog has no pitch
    ("Notes of about 262 Hz, 330 Hz, 392 Hz. So rising.", MELODY, "melody", 3, 3),
    ("Notes of about 392 Hz, 330 Hz, 262 Hz. So falling.", MELODY, "melody", 1, 3),
    ("Notes of about 262 Hz, 330 Hz. So rising.", MELODY, "melody", 2, 3),
    ("Sound 1 lasts 0.7 s. Sound 2 lasts 0.4 s. So first.", DOG_THEN_VIOLIN, "longer", 2, 2),
    ("Sound 1 lasts 0.4 s. Sound 2 lasts 0.7 s. So second.", DOG_THEN_VIOLIN, "longer", 0, 2),
    ("One beat every 0.5 s. So medium.", BEAT, "tempo", 1, 1),
    ("One beat every 0.8 s. So slow.", BEAT, "tempo", 0, 1),
    ("One beat every 0.5 s. So medium.", MELODY, "tempo", 0, 1),  # nothing beats
    ("The speaker says hello. So dog.", DOG_THEN_VIOLIN, "order", 0, 0),
    ("So dog.", DOG_THEN_VIOLIN, "order", 0, 0),
    ("", DOG_THEN_VIOLIN, "order", 0, 0),
    ("I hear a dog, then a violin", DOG_THEN_VIOLIN, "order", 2, 2),  # cut before the full stop
    ("Events at 0.2 s, 1.", DOG_THEN_VIOLIN, "count", 0, 0),  # cut inside a number: nothing is stated
    ("i hear the dog, then the violin.\nevents at 0.2 s, 1.2 s", DOG_THEN_VIOLIN, "order", 4, 4),
]


@pytest.mark.parametrize(("reasoning", "known", "task", "true", "stated"), GOLDEN)
def test_claims_are_counted_and_checked(
    reasoning: str, known: dict[str, Any], task: str, true: int, stated: int
) -> None:
    assert true_share(reasoning, known, task) == (true, stated)


def test_a_pitch_or_level_that_the_truth_leaves_out_is_not_confirmed() -> None:
    bare = {"events": [{"kind": "dog", "start_s": 0.2, "end_s": 0.9}]}
    said = "I hear a dog. Note 1 is about 440 Hz. Level 1 is about 0 dB. Sound 1 lasts 0.7 s."
    assert true_share(said, bare, "order") == (2, 4)


def test_without_known_events_nothing_is_checked() -> None:
    assert (
        true_share("I hear a dog.", {}, "source") == true_share("I hear a dog.", {"seconds": 2.0}, "source") == (0, 0)
    )


def test_claims_carry_kind_place_and_value() -> None:
    assert stated_claims("I hear a dog, then an owl. Note 2 is about 440 Hz. One beat every 0.5 s. So dog.") == [
        Claim(ClaimKind.SOUND, 0, "dog", listed=2),
        Claim(ClaimKind.SOUND, 1, "owl", listed=2),
        Claim(ClaimKind.PITCH, 1, 440.0),
        Claim(ClaimKind.BEAT, 0, 0.5),
    ]


times = st.integers(0, 35).map(lambda n: n / 10 + 0.037)
events = st.builds(
    event,
    st.sampled_from(["dog", "owl", "water", "seven", "electric guitar"]),
    times,
    times.map(lambda t: t + 4),
    st.floats(125, 900),
    st.floats(-15, 0),
)
TASKS = ["word", "source", "instrument", "order", "count", "louder", "higher", "melody", "longer", "tempo"]


@given(st.sampled_from(TASKS), st.lists(events, min_size=1, max_size=5), st.floats(0.2, 1.0))
def test_every_chain_written_from_truth_is_wholly_true(task: str, drawn: list[dict[str, Any]], beat: float) -> None:
    if task in ("word", "source", "instrument"):
        drawn = [item | {"kind": drawn[0]["kind"]} for item in drawn]
    known = truth(*drawn, beat=beat)
    question = Question("q", "?", "first", AnswerKind.EXACT, task=task, truth=known)
    true, stated = true_share(chain(question), known, task)
    assert true == stated >= 1


@given(st.text(max_size=80))
def test_any_text_can_be_checked(reasoning: str) -> None:
    true, stated = true_share(reasoning, DOG_THEN_VIOLIN, "order")
    assert 0 <= true <= stated
