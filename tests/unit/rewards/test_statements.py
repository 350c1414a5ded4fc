"""Acoustic statements are found in free prose, and nothing is found where nothing is stated."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.functions.statements import About, Statement, free_statements

A = About
FOUND = [
    ("I hear a tone around 440 Hz.", [Statement(A.PITCH, 440.0)]),
    ("the fundamental is 0.44 kHz", [Statement(A.PITCH, 440.0)]),
    ("a 440-Hz sine", [Statement(A.PITCH, 440.0)]),
    ("The note is A4.", [Statement(A.PITCH, 440.0)]),
    ("Between 200 and 250 Hz.", [Statement(A.PITCH, 200.0, to=250.0)]),
    ("The first tone sits at about 262 Hz and the second at roughly 330 Hz.", [Statement(A.PITCH, 262.0, 0), Statement(A.PITCH, 330.0, 1)]),
    ("Notes at 262, 330 and 392 Hz.", [Statement(A.PITCH, pitch, i, listed=3) for i, pitch in enumerate((262.0, 330.0, 392.0))]),
    ("The tempo is about 120 bpm.", [Statement(A.BEAT, 0.5)]),
    ("The tempo is about 120.", [Statement(A.BEAT, 0.5)]),
    ("120 beats per minute", [Statement(A.BEAT, 0.5)]),
    ("Five knocks per second.", [Statement(A.BEAT, 0.2)]),
    ("A knock every half second.", [Statement(A.BEAT, 0.5)]),
    ("There are three knocks.", [Statement(A.COUNT, 3.0)]),
    ("I hear a single beep.", [Statement(A.COUNT, 1.0)]),
    ("Four short metallic hits.", [Statement(A.COUNT, 4.0)]),
    ("The sound starts after 1.2 seconds.", [Statement(A.START, 1.2)]),
    ("Onsets at 0.25, 0.5 s.", [Statement(A.START, 0.25, 0, listed=2), Statement(A.START, 0.5, 1, listed=2)]),
    ("It starts at 0.25 s and 500 ms later again.", [Statement(A.START, 0.25), Statement(A.GAP, 0.5)]),
    ("A beep from 0.2 to 0.9 s.", [Statement(A.START, 0.2), Statement(A.END, 0.9)]),
    ("The bark ends at 0.9 s.", [Statement(A.END, 0.9)]),
    ("The first sound lasts 0.7 s, the second only 0.4 s.", [Statement(A.LENGTH, 0.7, 0), Statement(A.LENGTH, 0.4, 1)]),
    ("The clip is 3 seconds long.", [Statement(A.CLIP, 3.0)]),
    ("A gap of 0.3 s separates them.", [Statement(A.GAP, 0.3)]),
    ("The second is 6 dB louder than the first.", [Statement(A.LEVEL_STEP, 6.0, 1), Statement(A.LOUDER, 1.0, 1, 0)]),
    ("The second sound is not louder than the first.", [Statement(A.LOUDER, 1.0, 1, 0, yes=False)]),
    ("The third one is the quietest.", [Statement(A.LOUDER, -1.0, 2)]),
    ("The first note is higher than the second.", [Statement(A.HIGHER, 1.0, 0, 1)]),
    ("The first sound is longer.", [Statement(A.LONGER, 1.0, 0)]),
    ("The pitch is rising.", [Statement(A.CONTOUR, "rising")]),
    ("The melody falls from 392 Hz to 262 Hz.", [Statement(A.PITCH, 392.0), Statement(A.PITCH, 262.0), Statement(A.CONTOUR, "falling")]),
    ("Both tones are one octave apart.", [Statement(A.INTERVAL, 12.0)]),
    ("Energy is concentrated below 500 Hz.", [Statement(A.OTHER, 500.0)]),
    ("The level is -6 dBFS.", [Statement(A.OTHER, -6.0)]),
]  # fmt: skip
NOTHING = [
    "A dog barks in a park.",
    "The speaker says hello.",
    "Is it 440 Hz?",
    "If it were 440 Hz, it would be an A.",
    "The options are 200 Hz and 400 Hz.",
    "Two of the notes are loud.",
    "One sound is louder than another.",
    "The first two notes are alike.",
    "The file has a sample rate of 16 kHz.",
    "It is the second one.",
    "Does it rise or fall? It rises and falls.",
    "",
]


@pytest.mark.parametrize(("sentence", "stated"), FOUND, ids=[sentence for sentence, _ in FOUND])
def test_statements_of_a_sentence(sentence: str, stated: list[Statement]) -> None:
    assert free_statements(sentence) == stated


@pytest.mark.parametrize("sentence", NOTHING)
def test_sentences_that_state_nothing(sentence: str) -> None:
    assert free_statements(sentence) == []


@given(st.text(max_size=120))
def test_any_text_can_be_read(text: str) -> None:
    assert all(isinstance(statement, Statement) for statement in free_statements(text))


@given(
    st.floats(60, 1200).map(lambda hertz: round(hertz, 1)),
    st.sampled_from(["{} Hz", "around {} Hz", "at {}Hz", "~{} hertz"]),
)
def test_every_stated_pitch_is_found(hertz: float, form: str) -> None:
    assert free_statements(f"I hear a tone {form.format(hertz)}.") == [Statement(About.PITCH, hertz)]
