"""Surrogate chains decide nothing before their conclusion; acoustic chains grow by what is heard."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_catalogue import KINDS, recordings

from orchestrator.datasets.acoustic_qa.chains import chain
from orchestrator.datasets.acoustic_qa.questions import TASKS, questions_for
from orchestrator.datasets.acoustic_qa.scenes import FAMILIES, Catalogue, SceneWriter
from orchestrator.datasets.acoustic_qa.surrogate import (
    ACOUSTIC,
    CAPTIONS,
    SENTENCES,
    STYLES,
    SURROGATE,
    acoustic_bodies,
    reasonings,
    spread,
    surrogate_bodies,
)
from rewards import true_share
from rollout.messages import Question

WRITER = SceneWriter(Catalogue(recordings()), "train")
scenes = st.tuples(st.sampled_from(FAMILIES), st.integers(0, 2**40))


def asked(scene: tuple[str, int]) -> tuple[Question, ...]:
    return questions_for(WRITER.draw(*scene), KINDS, "s")


def other_worlds(question: Question) -> list[Question]:
    """The question with every other answer it could have, and a truth to go with some other answer."""
    answers = question.choices or ("1", "2", "3", "4", "5")
    events = question.truth["events"]
    backwards = [
        event | {"pitch_hz": old["pitch_hz"], "level_db": old["level_db"]}
        for event, old in zip(events, reversed(events), strict=True)
    ]
    truths = [question.truth | {"events": changed, "beat_s": 0.9} for changed in (backwards, backwards[:1])]
    return [dataclasses.replace(question, answer=a, truth=truth) for a in answers for truth in truths]


@given(scenes)
@settings(max_examples=200, deadline=None)
def test_a_surrogate_chain_says_the_same_whatever_the_answer(scene: tuple[str, int]) -> None:
    for question in asked(scene):
        for other in other_worlds(question):
            assert surrogate_bodies(other) == surrogate_bodies(question)


@given(scenes)
@settings(max_examples=200, deadline=None)
def test_a_surrogate_chain_states_no_perception(scene: tuple[str, int]) -> None:
    for question in asked(scene):
        for text in reasonings(question, SURROGATE, SENTENCES):
            assert true_share(text, question.truth, question.task) == (0, 0)
            assert text.endswith(f" So {question.answer}.")


@given(scenes)
@settings(max_examples=200, deadline=None)
def test_acoustic_chains_grow_statement_by_statement_to_the_whole_chain(scene: tuple[str, int]) -> None:
    for question in asked(scene):
        whole = question.truth | {}
        bodies = acoustic_bodies(question)
        assert f"{bodies[-1]} So {question.answer}." == chain(question)
        counts = [
            true_share(b, whole | {"events": whole["events"][: i + 1]}, question.task)[0] for i, b in enumerate(bodies)
        ]
        if question.task in ("louder", "higher", "longer", "melody", "count"):
            assert counts == list(range(1, len(whole["events"]) + 1))


@given(scenes, st.sampled_from(STYLES), st.integers(1, 6), st.integers(0, 99))
@settings(max_examples=200, deadline=None)
def test_every_question_gets_as_many_chains_as_there_are_lengths(
    scene: tuple[str, int], style: str, lengths: int, seed: int
) -> None:
    for question in asked(scene):
        found = reasonings(question, style, lengths, seed)
        assert len(found) == lengths
        assert list(found) == sorted(found, key=len)
        assert found == reasonings(question, style, lengths, seed)


@given(scenes)
@settings(max_examples=100, deadline=None)
def test_the_default_is_the_whole_acoustic_chain(scene: tuple[str, int]) -> None:
    for question in asked(scene):
        assert reasonings(question, ACOUSTIC) == (chain(question),)


def test_lengths_of_single_surrogate_chains_are_drawn_by_seed() -> None:
    question = asked(("notes", 1))[0]
    bodies = [dataclasses.replace(question, id=str(i)) for i in range(40)]
    drawn = {len(reasonings(q, SURROGATE, 1, 7)[0]) for q in bodies}
    assert len(drawn) == SENTENCES
    assert [reasonings(q, SURROGATE, 1, 7) for q in bodies] != [reasonings(q, SURROGATE, 1, 8) for q in bodies]


def test_every_task_has_a_caption() -> None:
    assert set(CAPTIONS) == set(TASKS)


@pytest.mark.parametrize(
    ("available", "lengths", "sizes"),
    [(4, 4, (1, 2, 3, 4)), (2, 4, (1, 1, 2, 2)), (1, 3, (1, 1, 1)), (5, 2, (1, 5)), (3, 1, (3,))],
)
def test_sizes_are_spread_from_the_shortest_to_the_longest(
    available: int, lengths: int, sizes: tuple[int, ...]
) -> None:
    assert spread(available, lengths) == sizes


def test_an_unknown_style_is_refused() -> None:
    with pytest.raises(ValueError, match="acoustic, surrogate"):
        reasonings(asked(("notes", 1))[0], "captions")
