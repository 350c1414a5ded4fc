"""Chains state only what is true, in the words the checker reads."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_catalogue import KINDS, recordings

from orchestrator.datasets.acoustic_qa.chains import (
    chain,
    level_on_grid,
    perceptions,
    pitch_on_grid,
    seconds_on_grid,
    with_article,
)
from orchestrator.datasets.acoustic_qa.questions import TASKS, questions_for
from orchestrator.datasets.acoustic_qa.scenes import FAMILIES, Catalogue, SceneWriter
from rewards import true_share
from rollout.messages import AnswerKind, Question

WRITER = SceneWriter(Catalogue(recordings()), "train")


@given(st.sampled_from(FAMILIES), st.integers(0, 2**40))
@settings(max_examples=300, deadline=None)
def test_the_checker_finds_every_statement_of_a_chain_true(family: str, seed: int) -> None:
    for question in questions_for(WRITER.draw(family, seed), KINDS, "c"):
        true, stated = true_share(chain(question), question.truth, question.task)
        assert stated >= 1
        assert (question.task, true) == (question.task, stated)


@given(st.sampled_from(FAMILIES), st.integers(0, 2**40))
@settings(max_examples=200, deadline=None)
def test_statements_about_two_sounds_differ_where_the_question_asks(family: str, seed: int) -> None:
    for question in questions_for(WRITER.draw(family, seed), KINDS, "c"):
        if question.task in ("louder", "higher", "longer"):
            one, two = (sentence.split(" ", 2)[2] for sentence in perceptions(question).split(". ", 1))
            assert one.rstrip(".") != two.rstrip(".")


def question(task: str, answer: str, events: list[dict[str, object]], beat_s: float | None = None) -> Question:
    return Question(
        "q", TASKS[task].prompt, answer, AnswerKind.EXACT, task=task, truth={"events": events, "beat_s": beat_s}
    )


def event(**fields: object) -> dict[str, object]:
    return {"kind": "dog", "start_s": 0.21, "end_s": 0.66, "pitch_hz": None, "level_db": 0.0, **fields}


@pytest.mark.parametrize(
    ("asked", "written"),
    [
        (question("word", "seven", [event(kind="seven")]), "I hear seven. So seven."),
        (question("source", "owl", [event(kind="owl")]), "I hear an owl. So owl."),
        (question("order", "dog", [event(), event(kind="water")]), "I hear a dog, then water. So dog."),
        (question("count", "2", [event(), event(start_s=0.68)]), "Events at 0.2 s, 0.7 s. So 2."),
        (
            question("louder", "second", [event(level_db=-8.2), event()]),
            "Level 1 is about -9 dB. Level 2 is about 0 dB. So second.",
        ),
        (
            question("higher", "second", [event(pitch_hz=440.0), event(pitch_hz=630.0)]),
            "Note 1 is about 440 Hz. Note 2 is about 622 Hz. So second.",
        ),
        (
            question("melody", "rising", [event(pitch_hz=262.0), event(pitch_hz=392.0)]),
            "Notes of about 262 Hz, 370 Hz. So rising.",
        ),
        (
            question("longer", "second", [event(), event(end_s=1.12)]),
            "Sound 1 lasts 0.5 s. Sound 2 lasts 0.9 s. So second.",
        ),
        (question("tempo", "medium", [event()], 0.52), "One beat every 0.5 s. So medium."),
    ],
)
def test_each_task_has_its_sentence(asked: Question, written: str) -> None:
    assert chain(asked) == written


def test_grids_take_the_nearest_value() -> None:
    assert [pitch_on_grid(hz) for hz in (100.0, 142.0, 144.0, 2000.0)] == [131, 131, 156, 880]
    assert [level_on_grid(db) for db in (0.0, -1.4, -1.6, -40.0)] == [0, 0, -3, -15]
    assert [seconds_on_grid(s) for s in (0.0, 0.149, 0.15, 1.0)] == ["0.0", "0.1", "0.2", "1.0"]
    assert [with_article(kind) for kind in ("dog", "owl", "water", "seven")] == ["a dog", "an owl", "water", "seven"]


def test_an_unknown_task_is_named() -> None:
    asked = dataclasses.replace(question("word", "seven", [event()]), task="mood")
    with pytest.raises(ValueError, match="'mood' of question 'q'"):
        chain(asked)
