"""Grounding pays statements that are there and true, checked with truth or with the clip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.datasets.acoustic_qa.chains import chain
from rewards import RewardError, RewardTerm, Sample, true_share
from rewards.functions import grounding as module
from rewards.functions.grounding import grounding
from rewards.functions.measure import RATE, MeasuredEvent, Measurement
from rewards.golden import QUESTION_DEFAULTS
from rewards.registry import resolve
from rollout.messages import AnswerKind, Question


def event(kind: str, start: float, end: float, pitch: float | None = None, level: float = 0.0) -> dict[str, Any]:
    return {"kind": kind, "start_s": start, "end_s": end, "pitch_hz": pitch, "level_db": level}


def truth(*events: dict[str, Any], beat: float | None = None) -> dict[str, Any]:
    return {"events": list(events), "seconds": 2.5, "beat_s": beat}


TWO = truth(event("piano", 0.4, 0.9, 220.0, -9.0), event("piano", 1.2, 1.7, 440.0))
DOG = truth(event("dog", 0.2, 0.9))


def sample(reasoning: str, known: dict[str, Any], task: str = "", clip: Path | None = None) -> Sample:
    audio = [{"path": str(clip), "sha256": "", "seconds": 2.5}] if clip else []
    question = QUESTION_DEFAULTS | {"truth": known, "task": task, "audio": audio}
    return Sample("t", question, "", reasoning, "x", True, True, 20, 10)


@pytest.fixture
def two_tones(tmp_path: Path) -> Path:
    """220 Hz at 0.4 s, 9 dB below 440 Hz at 1.2 s; half a second each."""
    rng = np.random.default_rng(2)
    wave = 1e-3 * rng.standard_normal(round(2.5 * RATE))
    for start_s, hertz, gain in ((0.4, 220.0, 0.1 * 10 ** (-9 / 20)), (1.2, 440.0, 0.1)):
        time = np.arange(RATE // 2) / RATE
        tone = sum(np.sin(2 * np.pi * hertz * n * time) / n for n in range(1, 4))
        wave[round(start_s * RATE) :][: RATE // 2] += gain * tone * np.minimum(1, np.minimum(time, time[::-1]) * 100)
    path = tmp_path / "two_tones.wav"
    soundfile.write(path, wave, RATE)
    return path


def test_the_clip_is_asked_where_there_is_no_truth(two_tones: Path) -> None:
    right = "The first tone sits near 220 Hz, the second near 440 Hz. The second is about 9 dB louder than the first. It starts at 1.2 s."
    wrong = "The first tone sits near 700 Hz. The first is 9 dB louder than the second. There are five notes. It lasts 1.8 s."
    for against in ("clip", "either"):
        found = grounding(sample(right, {}, clip=two_tones), against=against)
        assert found["score"] == 1.0 and found["true"] == found["checked"] == found["stated"] == 5
        found = grounding(sample(wrong, {}, clip=two_tones), against=against)
        assert (found["true"], found["checked"]) == (1, 5)  # it is a step of 9 dB


def test_fixed_sentences_are_checked_with_the_clip_too(two_tones: Path) -> None:
    heard = "Note 1 is about 220 Hz. Note 2 is about 440 Hz. Events at 0.4 s, 1.2 s. Level 1 is about -9 dB. I hear a piano. So second."
    found = grounding(sample(heard, {}, clip=two_tones), against="clip")
    assert (found["true"], found["checked"], found["stated"]) == (5, 5, 5)  # nothing can confirm the piano
    left_out = grounding(sample("Events at 0.4 s. So 1.", {}, clip=two_tones), against="clip")
    assert (left_out["true"], left_out["checked"]) == (1, 2)


def test_truth_is_asked_first_and_the_clip_only_for_what_truth_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def measured(clip: Any) -> Any:
        asked.append(clip.path)
        return module.Facts.of_measurement(Measurement(2.5, (MeasuredEvent(0.2, 0.9, 0.0, 500.0, 5.0),), (0.2,), 1))

    monkeypatch.setattr(module, "_facts_of", measured)
    clip = Path("bark.wav")
    assert grounding(sample("It starts at 0.2 s. It lasts 0.7 s.", DOG, clip=clip))["score"] == 1.0
    assert grounding(sample("It starts at 1.6 s.", DOG, clip=clip))["score"] == 0.0
    assert asked == []
    assert grounding(sample("The bark sits around 500 Hz. Its pitch is rising.", DOG, clip=clip))["score"] == 1.0
    assert asked
    assert grounding(sample("The bark sits around 500 Hz.", DOG, clip=clip), against="truth")["score"] == 0.0


events = st.builds(
    event,
    st.sampled_from(["dog", "owl", "water", "seven", "electric guitar"]),
    st.integers(0, 35).map(lambda n: n / 10 + 0.037),
    st.integers(40, 75).map(lambda n: n / 10 + 0.037),
    st.floats(125, 900),
    st.floats(-15, 0),
)
TASKS = ["word", "source", "instrument", "order", "count", "louder", "higher", "melody", "longer", "tempo"]


@given(
    st.sampled_from(TASKS),
    st.lists(events, min_size=1, max_size=4),
    st.lists(events, min_size=1, max_size=4),
    st.booleans(),
)
def test_fixed_sentences_count_as_the_true_share_counts_them(
    task: str, drawn: list[dict[str, Any]], others: list[dict[str, Any]], mistaken: bool
) -> None:
    known = truth(*drawn, beat=0.5)
    reasoning = chain(Question("q", "?", "first", AnswerKind.EXACT, task=task, truth=truth(*others, beat=0.9)))
    if not mistaken:
        reasoning = chain(Question("q", "?", "first", AnswerKind.EXACT, task=task, truth=known))
    found = grounding(sample(reasoning, known, task), against="truth")
    assert (found["true"], found["stated"]) == true_share(reasoning, known, task)
    assert found["checked"] == found["stated"]


@given(st.text(max_size=100), st.sampled_from([TWO, DOG, truth()]))
def test_any_reasoning_scores_within_bounds(reasoning: str, known: dict[str, Any]) -> None:
    found = grounding(sample(reasoning, known), against="truth")
    assert 0.0 <= found["score"] <= 1.0
    assert found["true"] <= found["checked"] <= found["stated"]


STATED = [
    "The first tone sits near 220 Hz.",
    "The second note is louder than the first.",
    "There are two notes.",
    "It starts at 0.4 s.",
    "The first tone sits near 800 Hz.",
    "There are six notes.",
]


@given(st.lists(st.sampled_from(STATED), min_size=1, max_size=6, unique=True), st.integers(1, 5))
def test_saying_it_again_or_padding_never_pays(said: list[str], times: int) -> None:
    once = grounding(sample(" ".join(said), TWO), against="truth")["score"]
    again = grounding(sample(" ".join(said * times), TWO), against="truth")["score"]
    padded = grounding(sample(" ".join([*said, "A man walks by."] * times), TWO), against="truth")["score"]
    assert again <= once and padded <= once


def test_partial_truth_tells_only_what_it_holds() -> None:
    known = {"events": [{"start_s": 0.2}, {"start_s": 0.9}]}
    found = grounding(
        sample("There are two sounds. The first sits at 440 Hz. Sound 1 lasts 0.4 s. I hear a dog.", known)
    )
    assert (found["true"], found["checked"], found["stated"]) == (1, 1, 3)


def test_own_words_can_be_added() -> None:
    said = "The djent is thick and chuggy in this part of it."
    assert grounding(sample(said, TWO))["score"] == 0.0
    assert grounding(sample(said, TWO), terms=["djent", "chug*"])["perceptual_terms"] == 2


@pytest.mark.parametrize(
    ("against", "known", "wanted"),
    [("truth", {}, "no truth with events"), ("clip", TWO, "has no clip"), ("either", {"beat_s": 0.5}, "or a clip")],
)
def test_a_question_with_nothing_to_check_against_is_invalid(against: str, known: dict[str, Any], wanted: str) -> None:
    with pytest.raises(ValueError, match=wanted):
        grounding(sample("There are two notes.", known), against=against)


@pytest.mark.parametrize(
    "parameters", [{"against": "ear"}, {"share": 0.0}, {"unchecked": 2.0}, {"terms": "bright"}, {"terms": [1]}]
)
def test_parameters_that_make_no_sense_are_refused(parameters: dict[str, Any]) -> None:
    with pytest.raises(RewardError, match="grounding"):
        resolve(RewardTerm("grounding", 1.0, "audio", parameters))
