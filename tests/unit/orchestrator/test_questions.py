"""Answers follow from the scene; nothing marginal is asked; wrong options are wrong."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_catalogue import KINDS, recordings

from orchestrator.datasets.acoustic_qa.questions import FAMILY_TASKS, TASKS, answer_of, questions_for
from orchestrator.datasets.acoustic_qa.scenes import FAMILIES, Catalogue, Event, Scene, SceneWriter
from rollout.messages import AnswerKind, Question

WRITER = SceneWriter(Catalogue(recordings()), "train")


def note(start_s: float, seconds: float = 0.5, midi: int = 60, gain_db: float = 0.0, kind: str = "violin") -> Event:
    return Event("r", kind, "music", start_s, seconds, gain_db, midi, 1.0, 0.0)


def two_notes(one: Event, two: Event) -> Scene:
    return Scene((one, two), 3.0, -40.0, 0.0, 1, "notes")


@given(st.sampled_from(FAMILIES), st.integers(0, 2**40))
@settings(max_examples=300, deadline=None)
def test_every_question_has_its_answer_among_its_choices_and_survives_json(family: str, seed: int) -> None:
    found = questions_for(WRITER.draw(family, seed), KINDS, "clip", "train")
    assert {q.task for q in found} <= set(FAMILY_TASKS[family])
    for question in found:
        if question.answer_kind is AnswerKind.CHOICE:
            assert question.choices.count(question.answer) == 1
            assert len(set(question.choices)) == len(question.choices)
            assert 1 / len(question.choices) == pytest.approx(TASKS[question.task].chance)
        else:
            assert question.choices == ()
        assert question.id == f"clip-{question.task}"
        assert Question.from_json(question.to_json()) == question


def test_comparisons_name_the_greater_one() -> None:
    scene = two_notes(note(0.1, 0.4, 60, -9.0), note(1.0, 0.9, 72))
    assert [answer_of(scene, task) for task in ("higher", "longer", "louder")] == ["second"] * 3
    scene = two_notes(note(0.1, 0.9, 72), note(1.2, 0.4, 60, -9.0))
    assert [answer_of(scene, task) for task in ("higher", "longer", "louder")] == ["first"] * 3


def test_marginal_differences_are_not_asked_about() -> None:
    scene = two_notes(note(0.1, 0.5, 60, -3.0), note(1.0, 0.6, 62))
    assert [answer_of(scene, task) for task in ("higher", "longer", "louder")] == [None] * 3


def test_the_length_of_a_decaying_sound_is_not_asked_for() -> None:
    assert answer_of(two_notes(note(0.1, 0.3, kind="piano"), note(1.0, 0.9, 72, kind="piano")), "longer") is None


def test_truth_holds_what_was_drawn() -> None:
    scene = two_notes(note(0.1, 0.4, 69, -9.0), note(1.0, 0.9, 81))
    truth = questions_for(scene, KINDS, "c")[0].truth
    assert truth["events"][0] == {
        "kind": "violin",
        "start_s": 0.1,
        "end_s": 0.5,
        "pitch_hz": 440.0,
        "level_db": -9.0,
    }
    assert truth["seconds"] == 3.0


def test_answers_are_balanced_and_options_shuffled() -> None:
    answers: Counter[tuple[str, str]] = Counter()
    places: Counter[int] = Counter()
    for family in FAMILIES:
        for seed in range(300):
            for question in questions_for(WRITER.draw(family, seed), KINDS, str(seed)):
                answers[question.task, question.answer] += 1
                if len(question.choices) == 2:
                    places[question.choices.index(question.answer)] += 1
    for task in ("louder", "higher", "longer"):
        assert 0.8 < answers[task, "first"] / answers[task, "second"] < 1.25
    assert 0.8 < answers["melody", "rising"] / answers["melody", "falling"] < 1.25
    assert min(answers["count", str(n)] for n in range(1, 6)) > 35
    assert 0.85 < places[0] / places[1] < 1.18


def test_wrong_options_depend_on_the_id_but_not_on_the_call() -> None:
    scene = WRITER.draw("word", 4)
    one, again, other = (questions_for(scene, KINDS, name)[0] for name in ("a", "a", "b"))
    assert one == again
    assert {one.choices, *(questions_for(scene, KINDS, f"x{i}")[0].choices for i in range(5))} != {other.choices}
    assert dataclasses.replace(other, id=one.id, choices=one.choices) == one
