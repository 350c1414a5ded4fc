"""Chunks on disk: what is read back equals what was sampled, and invalid verdicts are counted either way."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from orchestrator.stages.collect import Collector
from orchestrator.stages.scoring import ThinkTokens, attach, samples_of
from rewards import Verdict
from rollout import AnswerKind, FinishReason, Question, SamplingSpec, Trajectory

THINK = ThinkTokens(8, 9)
QUESTIONS = [Question(f"q{i}", "Which?", "dog", AnswerKind.EXACT) for i in range(5)]
SPEC = SamplingSpec(2, 1.0, 8, 1)


class Sampled:
    """Stands for engines and reward functions: remembers how many questions they were given; every fourth verdict is invalid."""

    def __init__(self) -> None:
        self.asked = 0
        self.think = THINK

    def prompts(self, questions: Any) -> None: ...

    def rollout(
        self, questions: list[Question], spec: SamplingSpec, prefix: str, advance: Any
    ) -> list[list[Trajectory]]:
        self.asked += len(questions)
        return [[trajectory(q, n, prefix) for n in range(spec.samples)] for q in questions]


def trajectory(q: Question, n: int, prefix: str) -> Trajectory:
    return Trajectory(
        f"{prefix}/{q.id}/{n}", q.id, n, (1,), (2, n), (0.0, 0.0), (1, 1), (), FinishReason.STOP, f"dog {n}"
    )


def score(questions: list[Question], groups: list[list[Trajectory]], where: str) -> list[list[Any]]:
    out = []
    for question, group in zip(questions, groups, strict=True):
        verdicts = [
            Verdict.invalid("broken")
            if (int(question.id[1:]) * 2 + t.sample) % 4 == 0
            else Verdict(True, 1.0, {"answer": 1.0})
            for t in group
        ]
        asked = [question] * len(group)
        out.append(attach(asked, group, samples_of(asked, group, THINK), verdicts))
    return out


def collector(parts: Sampled, folder: Path) -> Collector:
    judge = SimpleNamespace(versions={"answer": "sha256:1"}, score=score)
    return Collector(parts, judge, folder, version=1, chunk=2)  # type: ignore[arg-type]


def test_invalid_verdicts_are_counted_over_all_that_was_asked_and_read_back(tmp_path: Path) -> None:
    parts = Sampled()
    first = collector(parts, tmp_path)
    groups = first.ask(QUESTIONS, SPEC, "t1.perceive/original")
    assert parts.asked == 5 and first.invalid == 3
    first.ask(QUESTIONS[:1], SPEC, "t1.perceive/swap")
    assert first.invalid == 4
    again = collector(parts, tmp_path)
    assert again.ask(QUESTIONS, SPEC, "t1.perceive/original") == groups
    assert parts.asked == 6 and again.invalid == 3


def test_only_the_questions_of_a_chunk_that_is_gone_are_asked_again(tmp_path: Path) -> None:
    parts = Sampled()
    collector(parts, tmp_path).ask(QUESTIONS, SPEC, "t1.distil")
    next(tmp_path.glob("t1.distil.0001.*")).unlink()
    collector(parts, tmp_path).ask(QUESTIONS, SPEC, "t1.distil")
    assert parts.asked == 7
