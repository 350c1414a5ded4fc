"""Shares, standard errors and metrics count what they say they count."""

import dataclasses
import math

import pytest

from orchestrator.gallery import gallery_html
from orchestrator.stages.evaluate import summarise
from orchestrator.stages.metrics import update_metrics
from orchestrator.stages.scoring import Scored, ThinkTokens
from rewards import RewardSpec, RewardTerm, Sample, Verdict
from rollout import AnswerKind, FinishReason, Question, Trajectory

SPEC = RewardSpec((RewardTerm("answer", 0.8, "any"), RewardTerm("think_present", 0.2, "any")), 1.0, 256, 1)


def scored(
    question: str = "q", sample: int = 0, *, task: str = "word", correct: bool = True, thinks: bool = True, **over
) -> Scored:
    verdict = over.pop("verdict", None) or Verdict(
        True, 0.8 * correct + 0.2 * thinks, {"answer": float(correct), "think_present": float(thinks)}
    )
    asked = Question(
        id=question, prompt="Which?", answer="dog", answer_kind=AnswerKind.CHOICE, choices=("dog", "cat"), task=task
    )
    trajectory = Trajectory(
        id=f"x/{question}/{sample}",
        question_id=question,
        sample=sample,
        prompt_ids=(1, 2, 3),
        response_ids=(4, 5),
        logprobs=(-0.1, -0.2),
        versions=(1, 1),
        feature_keys=(),
        finish_reason=FinishReason.STOP,
        text=over.pop("text", "<think>\nI hear a dog.\n</think>\ndog"),
    )
    view = Sample(
        trajectory.id,
        {},
        trajectory.text,
        "I hear a dog." if thinks else "",
        "dog",
        thinks,
        over.pop("finished", True),
        2,
        5,
    )
    return Scored(asked, trajectory, view, verdict, over.pop("true", 1), over.pop("stated", 2))


def test_accuracy_is_averaged_within_a_question_before_its_error_is_taken():
    groups = [
        [scored("a", i, correct=c) for i, c in enumerate((True, True, True, False))],
        [scored("b", i, correct=False) for i in range(4)],
    ]
    report = summarise(groups, [[scored("a")], [scored("b", correct=False)]])
    assert report.sampled == pytest.approx(0.375)
    assert report.stderr == pytest.approx(0.375)  # the two questions are at 0.75 and 0
    assert report.greedy == 0.5
    assert report.true_perceptions == 0.5
    assert report.by_task["word"]["questions"] == 2


def test_an_invalid_verdict_is_counted_and_never_scored_as_wrong():
    invalid = scored("a", 1, verdict=Verdict.invalid("answer timed out after 2.0 s"))
    report = summarise([[scored("a", 0), invalid]], [[scored("a")]])
    assert report.sampled == 1.0
    assert report.invalid_verdicts == 1
    metrics = update_metrics([scored("a", 0), invalid], {}, SPEC)
    assert metrics["invalid_share"] == 0.5
    assert metrics["reward/mean"] == pytest.approx(1.0)


def test_a_think_block_counts_only_when_closed_and_not_empty():
    report = summarise([[scored("a", 0), scored("a", 1, thinks=False)]], [[scored("a")]])
    assert report.think_present == 0.5


def test_nothing_stated_gives_no_share_of_true_perceptions():
    report = summarise([[scored(true=0, stated=0)]], [[scored(true=0, stated=0)]])
    assert math.isnan(report.true_perceptions)


def test_every_reward_component_and_every_training_figure_is_a_metric():
    metrics = update_metrics([scored("a", 0), scored("a", 1, correct=False)], {"clip_fraction": 0.1}, SPEC)
    assert metrics["reward/answer"] == 0.5
    assert metrics["reward/think_present"] == 1.0
    assert metrics["reward/mixed_questions"] == 1.0
    assert metrics["policy/clip_fraction"] == 0.1
    assert metrics["accuracy/word"] == 0.5
    assert metrics["tokens/total"] == 10


def test_reasoning_length_is_what_lies_between_the_think_tokens():
    think = ThinkTokens(open_id=7, close_id=8)
    assert think.reasoning_length([7, 1, 2, 3, 8, 4]) == 3
    assert think.reasoning_length([7, 8, 4]) == 0
    assert think.reasoning_length([1, 2]) == 0
    assert think.reasoning_length([8, 1, 7]) == 0


def test_think_length_is_zero_for_the_empty_form_and_the_whole_of_an_unclosed_block():
    closed, empty, cut = (scored("a", i) for i in range(3))
    empty = dataclasses.replace(
        empty, sample=dataclasses.replace(empty.sample, reasoning="", reasoning_tokens=2, response_tokens=4)
    )
    cut = dataclasses.replace(
        cut, sample=dataclasses.replace(cut.sample, well_formed=False, reasoning_tokens=0, response_tokens=40)
    )
    closed = dataclasses.replace(closed, sample=dataclasses.replace(closed.sample, reasoning_tokens=8))
    report = summarise([[closed, empty, cut]], [[closed]])
    assert report.think_tokens == update_metrics([closed, empty, cut], {}, SPEC)["think/tokens"] == 16.0
    assert [b["longest"] for b in report.by_think_length["bins"]] == [0, 8, 40]


def test_the_gallery_escapes_what_a_model_wrote():
    bad = scored(text="x")
    view = Sample(bad.sample.trajectory_id, {}, "x", "<script>alert(1)</script>", "dog", True, True, 2, 5)
    page = gallery_html("page", [Scored(bad.question, bad.trajectory, view, bad.verdict, 0, 0)], per_page=6)
    assert "<script>alert" not in page
    assert "&lt;script&gt;" in page


def test_accuracy_by_think_length_says_within_a_question_whether_the_longer_sample_is_better():
    def drawn(name: str, sample: int, tokens: int, correct: bool) -> Scored:
        one = scored(name, sample, correct=correct)
        return dataclasses.replace(one, sample=dataclasses.replace(one.sample, reasoning_tokens=tokens))

    groups = [[drawn(f"q{i}", 0, 5, False), drawn(f"q{i}", 1, 20, True)] for i in range(8)]
    found = summarise(groups, [[group[0]] for group in groups]).by_think_length
    assert [(b["shortest"], b["longest"], b["samples"], b["accuracy"]) for b in found["bins"]] == [
        (5, 5, 8, 0.0),
        (20, 20, 8, 1.0),
    ]
    effect = found["longer_minus_shorter"]
    assert (effect["value"], effect["pairs"], effect["longer_better"], effect["verdict"]) == (1.0, 8, 8, "helps")
    assert found["longer_minus_shorter_thinking"] == effect
