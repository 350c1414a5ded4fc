"""A report counts what it says, and an evaluation asks only what it has not asked yet."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from orchestrator.errors import PreflightError
from orchestrator.evaluation.chunks import ChunkStore, EvaluationPlan
from orchestrator.evaluation.contribution import contribution_report
from orchestrator.evaluation.outcomes import Outcome, outcome_of, outcomes_of
from orchestrator.evaluation.plots import write_plots
from orchestrator.evaluation.report import build_report, metrics_of, summary_lines, table_rows
from orchestrator.evaluation.runner import collect, missing, standard_passes
from rewards import Sample, StoredTrajectory, Verdict, make_sample
from rollout import AnswerKind, FinishReason, Question, SamplingSpec, Trajectory


def question(number: int, task: str = "word") -> Question:
    return Question(f"q{number}", "Which?", "dog", AnswerKind.CHOICE, ("dog", "cat"), task=task, domain="speech")


def judged(
    asked: Question, text: str, *, value: float | None = 1.0, sample: int = 0, finished: bool = True
) -> StoredTrajectory:
    reason = FinishReason.STOP if finished else FinishReason.LENGTH
    ids = tuple(range(len(text.split())))
    trajectory = Trajectory(
        f"eval/x/{asked.id}/{sample}", asked.id, sample, (1,), ids, (0.0,) * len(ids), (0,) * len(ids), (), reason, text
    )
    verdict = Verdict.invalid("down") if value is None else Verdict(True, value, {"answer": value})
    return StoredTrajectory(make_sample(asked, trajectory, reasoning_tokens=len(text.split()) - 2), verdict)


def plan(**over: object) -> EvaluationPlan:
    fields = {
        "model": "/m", "model_digest": "a", "data": "/d", "data_digest": "b", "questions": 5, "samples": 2,
        "temperature": 1.0, "max_new_tokens": 8, "seed": 1, "chunk": 2, "rewards": {"answer": "sha256:1"}, "scoring": "c",
    } | over  # fmt: skip
    return EvaluationPlan(**fields)  # type: ignore[arg-type]


class Scripted:
    """Answers every question right, and remembers what it was asked; dies when `left` calls are used up."""

    def __init__(self, left: int = 99) -> None:
        self.asked: list[tuple[str, list[str], int]] = []
        self.left = left

    def answer(
        self, questions: Sequence[Question], spec: SamplingSpec, prefix: str, advance: Callable[..., None] | None
    ) -> list[list[StoredTrajectory]]:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        self.asked.append((prefix, [q.id for q in questions], spec.samples))
        return [
            [judged(q, "<think>\nI hear a dog\n</think>\ndog", sample=i) for i in range(spec.samples)]
            for q in questions
        ]


def passes() -> list:
    return standard_passes([question(n) for n in range(5)], samples=2, temperature=1.0, max_new_tokens=8, seed=1)


def test_what_was_finished_before_a_kill_is_not_asked_again(tmp_path: Path) -> None:
    store = ChunkStore(tmp_path / "e")
    killed, resumed, whole = Scripted(left=2), Scripted(), Scripted()
    left: list[int] = []
    with store.claimed(plan(), resume=False), pytest.raises(KeyboardInterrupt):
        collect(killed, passes(), store, 2, on_kept=lambda: left.append(missing(passes(), store, 2)))
    assert left == [8, 6], "told after every chunk that is on disk"
    with store.claimed(plan(), resume=True):
        found = collect(resumed, passes(), store, 2)
    assert [names for _, names, _ in resumed.asked] == [["q4"], ["q0", "q1"], ["q2", "q3"], ["q4"]]
    other = ChunkStore(tmp_path / "other")
    with other.claimed(plan(), resume=False):
        assert collect(whole, passes(), other, 2) == found
    assert [s.sample.question["id"] for s in found["sampled"]] == [f"q{n}" for n in range(5) for _ in range(2)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_digest": "z"}, "model_digest was 'a', is 'z'"),
        ({"data_digest": "z"}, "data_digest"),
        ({"samples": 4}, "samples was 2, is 4"),
        ({"rewards": {"answer": "sha256:2"}}, "sha256:2"),
        ({"scoring": "d"}, "scoring was 'c', is 'd'"),
    ],
)
def test_an_evaluation_of_something_else_is_not_gone_on_with(change: dict, message: str, tmp_path: Path) -> None:
    store = ChunkStore(tmp_path)
    with store.claimed(plan(), resume=False):
        pass
    with pytest.raises(PreflightError, match=message), store.claimed(plan(**change), resume=True):
        pass


def test_a_folder_in_use_or_used_or_unused_is_refused_as_such(tmp_path: Path) -> None:
    store = ChunkStore(tmp_path)
    with pytest.raises(PreflightError, match="nothing to resume"), store.claimed(plan(), resume=True):
        pass
    with (
        store.claimed(plan(), resume=False),
        pytest.raises(PreflightError, match="another evaluation"),
        ChunkStore(tmp_path).claimed(plan(), resume=True),
    ):
        pass
    with pytest.raises(PreflightError, match="--resume"), store.claimed(plan(), resume=False):
        pass
    moved = plan(model="/elsewhere", data="/elsewhere", passes=("sampled", "greedy", "without_clip_silence"))
    with store.claimed(moved, resume=True):
        pass


def test_line_breaks_of_the_empty_think_form_are_no_thinking_and_an_open_block_is() -> None:
    empty = judged(question(1), "<think>\n\n</think>\ndog")
    assert outcome_of(empty.sample, empty.verdict).think_tokens == 0
    text = "<think>\nI hear a dog and then"
    sample = Sample("t", {"id": "q", "task": "", "domain": "", "dataset": ""}, text, "I hear", "", False, False, 7, 0)
    assert outcome_of(sample, Verdict(True, 0.0, {"answer": 0.0})).think_tokens == 7


def test_a_report_keeps_tasks_apart_and_counts_what_is_invalid(tmp_path: Path) -> None:
    text = "<think>\nI hear a dog\n</think>\ndog"
    sampled = [judged(question(n), text, value=v, sample=i) for n in (1, 2) for i, v in enumerate((1.0, 0.0))]
    sampled += [
        judged(question(3, "order"), text, value=v, sample=i, finished=False) for i, v in enumerate((None, 0.0))
    ]
    greedy = [judged(question(n), text) for n in (1, 2)] + [judged(question(3, "order"), text, value=None)]
    report = build_report(outcomes_of(sampled), outcomes_of(greedy), ks=(1, 2))
    assert (report.questions, report.samples) == (3, 2)
    assert report.sampled.value == pytest.approx(1 / 3)
    assert report.greedy.value == 1.0 and report.greedy.questions == 2
    assert report.by_task["word"].sampled.value == 0.5
    assert report.macro == pytest.approx(0.25)
    assert report.pass_at["2"].value == 1.0 and report.pass_at["2"].questions == 2
    assert report.invalid_verdicts == 2
    assert report.truncated == pytest.approx(1 / 3)
    assert report.think_present == 1.0
    text_form = json.dumps(report.to_dict(), allow_nan=False)
    assert json.loads(text_form)["by_task"]["order"]["greedy"]["value"] is None
    assert all(math.isfinite(value) for value in metrics_of(report).values())
    assert table_rows(report)[-1][:2] == ["all", "3"]
    assert any("2 invalid" in line for line in summary_lines(report))
    assert all(path.stat().st_size > 1000 for path in write_plots(report, tmp_path))


def test_nothing_sampled_makes_a_report_all_the_same(tmp_path: Path) -> None:
    report = build_report([], [])
    json.dumps(report.to_dict(), allow_nan=False)
    assert metrics_of(report) == {"invalid_verdicts": 0.0}
    assert len(write_plots(report, tmp_path)) == 2
    assert summary_lines(report)


def heard(name: str, value: float | None) -> Outcome:
    return Outcome(name, "word", "speech", "d", value, True, 3, 5, True)


def test_the_audio_contributes_what_is_lost_without_it() -> None:
    greedy = [heard("a", 1.0), heard("b", 1.0), heard("c", 0.0), heard("text", 1.0)]
    without = {
        "without_clip_silence": [heard("a#silence", 0.0), heard("b#silence", 1.0), heard("c#silence", None)],
        "without_clip_noise": [heard("a#noise", 0.0), heard("b#noise", 0.0), heard("c#noise", 0.0)],
    }
    report = contribution_report(greedy, without, chance={"a": 0.5, "b": 0.25, "c": 0.5, "text": 0.0})
    assert report.questions == 2, "c has no valid verdict in silence, text has no clip"
    assert report.with_clip.value == 1.0
    assert (report.without_clip["silence"].value, report.without_clip["noise"].value) == (0.5, 0.0)
    assert report.contribution.value == pytest.approx(0.75)
    lines = summary_lines(build_report(greedy, greedy, contribution=report))
    assert any("audio contributes +75.0 points" in line for line in lines)
    assert report.chance == pytest.approx(0.375)
    assert report.corrected.value == pytest.approx((1.0 + 0.5) / (0.5 + 0.75)), (
        "more than 1: the guesses of b were unlucky"
    )
    assert any("120.0 [" in line and "guessing among the options (37.5 %)" in line for line in lines)
