"""A reward function that fails too often pauses the run by name; its failures are figures of their own."""

from __future__ import annotations

import pytest

from orchestrator.errors import RunPaused
from orchestrator.stages.metrics import component_metrics
from orchestrator.stages.scoring import Scored, failing_reward, pause_on_failing_reward
from rewards import RewardSpec, RewardTerm, Sample, Verdict
from rollout import AnswerKind, FinishReason, Question, Trajectory

SPEC = RewardSpec((RewardTerm("answer", 1.0, "any"), RewardTerm("pitch", 0.5, "any")), 1.0, 256, 1)
GOOD = Verdict(True, 1.5, {"answer": 1.0, "pitch": 1.0}, seconds={"answer": 0.001, "pitch": 0.01})
HALF = Verdict(True, 0.0, {"answer": 0.0, "pitch": 0.0}, seconds={"answer": 0.001, "pitch": 0.03})
BAD = Verdict.invalid("pitch timed out after 1.0 s and was killed", {"answer": 1.0})


def scored(verdict: Verdict, number: int = 0, task: str = "order", dataset: str = "birds") -> Scored:
    question = Question("q", "Which?", "dog", AnswerKind.EXACT, task=task, dataset=dataset)
    trajectory = Trajectory(f"t/{number}", "q", 0, (1,), (2,), (0.0,), (1,), (), FinishReason.STOP, "dog")
    sample = Sample(f"t/{number}", {"audio": []}, "dog", "", "dog", False, True, 1, 0)
    return Scored(question, trajectory, sample, verdict, 0, 0)


def test_few_failures_leave_the_batch_and_do_not_stop_it() -> None:
    pause_on_failing_reward([scored(GOOD, i) for i in range(19)] + [scored(BAD)], SPEC, 0.1, "policy update 3")


def test_more_than_the_limit_pauses_with_the_function_and_three_examples() -> None:
    batch = [scored(GOOD, i) for i in range(8)] + [scored(BAD, 100 + i) for i in range(4)]
    with pytest.raises(RunPaused) as pause:
        pause_on_failing_reward(batch, SPEC, 0.1, "policy update 3")
    text = str(pause.value)
    assert "policy update 3: the reward 'pitch' failed on 4 of 12 samples (limit 10%)" in text
    assert text.count("pitch timed out after 1.0 s and was killed") == 3
    assert "t/100" in text and "t/103" not in text


def test_a_function_that_fails_on_everything_pauses_whatever_the_limit() -> None:
    with pytest.raises(RunPaused, match="'pitch' failed on 2 of 2"):
        pause_on_failing_reward([scored(BAD, i) for i in range(2)], SPEC, 1.0, "evaluate")


def test_invalid_verdicts_that_no_function_is_to_blame_for_pause_as_well() -> None:
    unweighed = Verdict.invalid("no reward term counts for text questions", {"answer": 1.0, "pitch": 1.0})
    with pytest.raises(RunPaused, match=r"'as a whole' failed on 3 of 10 samples.*no reward term counts for text"):
        pause_on_failing_reward([scored(GOOD)] * 7 + [scored(unweighed)] * 3, SPEC, 0.1, "policy update 3")
    pause_on_failing_reward([scored(GOOD)] * 19 + [scored(unweighed)], SPEC, 0.1, "policy update 3")


def test_the_worst_function_is_named_and_a_function_that_worked_never_is() -> None:
    worse = Verdict.invalid("answer returned None; pitch returned None")
    found = failing_reward([scored(worse), scored(BAD), scored(GOOD)], SPEC)
    assert found is not None
    name, failed, asked = found
    assert (name, len(failed), asked) == ("pitch", 2, 3)
    assert failing_reward([scored(GOOD)], SPEC) is None


def test_every_component_has_mean_spread_invalid_share_and_seconds_by_data_set_and_task() -> None:
    batch = [scored(GOOD), scored(HALF), scored(BAD), scored(GOOD, task="count", dataset="drums")]
    figures = component_metrics(batch, SPEC)
    assert figures["reward/answer"] == 0.75
    assert figures["reward/pitch"] == pytest.approx(2 / 3)
    assert figures["reward/pitch/invalid_share"] == 0.25
    assert figures["reward/answer/invalid_share"] == 0.0
    assert figures["reward/pitch/std"] == pytest.approx(0.4714, abs=1e-4)
    assert figures["reward/pitch/task/order/invalid_share"] == pytest.approx(1 / 3)
    assert figures["reward/pitch/dataset/drums"] == figures["reward/pitch/task/count"] == 1.0
    assert figures["reward/pitch/seconds_p50"] == 0.01
    assert figures["reward/pitch/dataset/birds/seconds_p95"] == pytest.approx(0.029)


def test_a_component_that_was_never_computed_still_has_its_invalid_share() -> None:
    lost = Verdict.invalid("pitch returned None", {"answer": 1.0})
    figures = component_metrics([scored(lost)], SPEC)
    assert figures["reward/answer"] == 1.0
    assert figures["reward/pitch/invalid_share"] == 1.0
    assert "reward/pitch" not in figures
