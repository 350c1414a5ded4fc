"""What the audio contributes, and which questions are kept for it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import ConfigError
from orchestrator.hearing.contribution import (
    ANSWERED_WITHOUT_CLIP,
    KEPT,
    WRONG_WITH_CLIP,
    Contribution,
    audio_contribution,
    chance_of,
    contributions,
    corrected_contribution,
    perception_grounded,
    shares_correct,
)
from orchestrator.hearing.perturb import Perturbation
from orchestrator.hearing.tasks import Need, by_metadata, perceptual_tasks
from orchestrator.stages.perceive import counted
from orchestrator.stages.scoring import Scored
from rewards import Sample, Verdict
from rollout import AnswerKind, AudioRef, FinishReason, Question, Trajectory

SHARE = st.integers(0, 8).map(lambda n: n / 8)
ITEMS = st.lists(st.tuples(SHARE, SHARE, SHARE, SHARE), max_size=30).map(
    lambda rows: [Contribution(f"q{i}", *row) for i, row in enumerate(rows)]
)
LIMIT = st.none() | SHARE


@settings(deadline=None)
@given(ITEMS)
def test_contribution_is_what_is_lost_on_average(items: list[Contribution]) -> None:
    mean, error = audio_contribution(items)
    if not items:
        assert math.isnan(mean) and error == 0
        return
    expected = [i.original - (i.silence + i.noise + i.swap) / 3 for i in items]  # type: ignore[operator]
    assert mean == pytest.approx(sum(expected) / len(items))
    assert -1 <= mean <= 1 and error >= 0


@given(st.integers(2, 8), st.integers(1, 40), st.floats(0, 1))
def test_a_model_that_guesses_without_the_clip_has_a_corrected_contribution_of_what_it_knows(
    options: int, count: int, known: float
) -> None:
    guess = 1 / options
    right = known + (1 - known) * guess
    items = [Contribution(f"q{i}", right, silence=guess) for i in range(count)]
    assert corrected_contribution(items, {item.question_id: guess for item in items}) == pytest.approx(known, abs=1e-9)


def test_open_questions_are_not_corrected_and_one_option_leaves_nothing() -> None:
    items = [Contribution("open", 1.0, silence=0.25), Contribution("other", 0.5, silence=0.25)]
    assert corrected_contribution(items, {"open": 0.0, "other": 0.0}) == pytest.approx(0.5)
    assert math.isnan(corrected_contribution(items, {"open": 1.0, "other": 1.0}))
    assert math.isnan(corrected_contribution([], {}))
    asked = Question("q", "Which?", "dog", AnswerKind.CHOICE, ("dog", "cat", "cow", "hen"))
    assert chance_of(asked) == 0.25 and chance_of(Question("q", "How many?", "2", AnswerKind.NUMBER)) == 0.0


@settings(deadline=None)
@given(ITEMS, SHARE, LIMIT, LIMIT)
def test_every_question_is_counted_once_and_kept_exactly_when_both_limits_hold(
    items: list[Contribution], least: float, most: float | None, drop: float | None
) -> None:
    if most is None and drop is None:
        with pytest.raises(ValueError, match="max_perturbed"):
            perception_grounded(items, min_original=least)
        return
    found = perception_grounded(items, min_original=least, max_perturbed=most, min_drop=drop)
    assert sum(found.counts.values()) == len(items)
    assert found.counts[KEPT] == len(found.ids)
    assert found.counts[WRONG_WITH_CLIP] == sum(i.original < least for i in items)
    kept = [
        i.question_id
        for i in items
        if i.original >= least
        and (most is None or i.perturbed <= most + 1e-9)
        and (drop is None or i.contribution >= drop - 1e-9)
    ]
    assert list(found.ids) == kept


def test_a_question_that_silence_answers_as_well_is_not_grounded() -> None:
    heard, guessed, hard = (
        Contribution("heard", 1.0, 0.25, 0.25, 0.0),
        Contribution("guessed", 1.0, 1.0, 1.0, 1.0),
        Contribution("hard", 0.25, 0.0, 0.0, 0.0),
    )
    found = perception_grounded([guessed, hard, heard], min_original=0.5, min_drop=0.25)
    assert found.ids == ("heard",)
    assert found.counts == {WRONG_WITH_CLIP: 1, ANSWERED_WITHOUT_CLIP: 1, KEPT: 1}


def test_a_way_that_was_not_asked_does_not_count() -> None:
    assert Contribution("q", 1.0, silence=0.5).contribution == 0.5
    with pytest.raises(ValueError, match="never asked"):
        Contribution("q", 1.0)
    with pytest.raises(ValueError, match=r"0\.\.1"):
        Contribution("q", 1.5, 0.0)


def scored(name: str, right: bool | None) -> Scored:
    question = Question(name, "Which?", "dog", AnswerKind.EXACT)
    trajectory = Trajectory("t", name, 0, (1,), (2,), (0.0,), (1,), (), FinishReason.STOP, "dog")
    sample = Sample("t", {"audio": []}, "dog", "", "dog", False, True, 1, 0)
    verdict = Verdict.invalid("broken") if right is None else Verdict(True, 1.0, {"answer": float(right)})
    return Scored(question, trajectory, sample, verdict, 0, 0)


def test_shares_leave_invalid_verdicts_out_and_go_by_the_original_question() -> None:
    groups = [[scored("a#swap", True), scored("a#swap", None)], [scored("b#swap", None)], [scored("c", False)]]
    assert shares_correct(groups) == {"a": 1.0, "c": 0.0}


def test_only_questions_asked_in_every_way_have_a_contribution() -> None:
    made = contributions(
        {"a": 1.0, "b": 0.5, "c": 1.0},
        {Perturbation.SILENCE: {"c": 0.0, "a": 0.5}, Perturbation.SWAP: {"a": 0.0, "b": 0.0, "c": 1.0}},
    )
    assert made == [Contribution("a", 1.0, silence=0.5, swap=0.0), Contribution("c", 1.0, silence=0.0, swap=1.0)]


@settings(deadline=None)
@given(ITEMS, st.integers(0, 9), st.integers(0, 9))
def test_counts_of_the_stage_add_up(items: list[Contribution], unjudged: int, not_drawn: int) -> None:
    grounded = perception_grounded(items, min_original=0.5, min_drop=0.25)
    given_to_probe = len(items) + unjudged
    by_task = {"no_clip": 3, "semantic_task": 2, "kept": given_to_probe + not_drawn}
    counts = counted(by_task, given_to_probe + not_drawn, given_to_probe, grounded)
    assert sum(n for name, n in counts.items() if name.startswith("by_probe/")) == given_to_probe
    assert counts["not_drawn"] == counts["by_task/kept"] - given_to_probe
    assert counts["by_probe/no_valid_verdict"] == unjudged
    assert counts["by_probe/kept"] == len(grounded.ids)


def asked(task: str, audio: bool = True) -> Question:
    clips = (AudioRef("a.wav", "00", 1.0),) if audio else ()
    return Question(f"{task}-{audio}", "Which?", "x", AnswerKind.EXACT, task=task, audio=clips)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["word", "order", "emotion"]), st.booleans()), max_size=20))
def test_the_rule_by_task_keeps_order_and_counts_everything(rows: list[tuple[str, bool]]) -> None:
    questions = [asked(*row) for row in rows]
    kept, counts = by_metadata(questions, perceptual_tasks())
    assert sum(counts.values()) == len(questions)
    assert kept == [q for q in questions if q.audio and q.task != "word"]
    assert counts["kept_unlisted"] == sum(q.task == "emotion" for q in kept)


def test_tasks_of_acoustic_qa_are_all_listed_and_may_be_overridden() -> None:
    from orchestrator.datasets.acoustic_qa.questions import TASKS

    table = perceptual_tasks()
    assert set(table) == set(TASKS)
    assert [task for task, need in table.items() if need is Need.SEMANTIC] == ["word"]
    assert perceptual_tasks({"word": "acoustic", "mood": "semantic"})["mood"] is Need.SEMANTIC
    assert perceptual_tasks(dataset="elsewhere") == {}
    with pytest.raises(ConfigError, match="loud"):
        perceptual_tasks({"word": "loud"})
