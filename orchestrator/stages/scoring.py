"""Trajectories → verdicts and what a person wants to know about them.

Neighbours: `rewards` scores, `stages.evaluate` / `select` / `reinforce` read the result. Invariants: order is kept; an invalid
verdict never counts as a wrong answer, it is counted as invalid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rewards import RewardService, Sample, Verdict, make_sample, true_share
from rollout import Question, Trajectory

CORRECT = 1.0  # the `answer` component of a right reply


@dataclass(frozen=True, slots=True)
class Scored:
    """One trajectory with its question, its verdict and its stated perceptions (true of stated)."""

    question: Question
    trajectory: Trajectory
    sample: Sample
    verdict: Verdict
    true_claims: int
    stated_claims: int

    @property
    def correct(self) -> bool:
        return self.verdict.components.get("answer") == CORRECT

    @property
    def thinks(self) -> bool:
        """One well-formed think block with something in it, the paper's format reward."""
        return self.sample.well_formed and bool(self.sample.reasoning)


@dataclass(frozen=True, slots=True)
class ThinkTokens:
    """Ids that open and close a think block; what lies between is counted as reasoning."""

    open_id: int
    close_id: int

    def reasoning_length(self, response_ids: Sequence[int]) -> int:
        if self.open_id not in response_ids or self.close_id not in response_ids:
            return 0
        return max(0, list(response_ids).index(self.close_id) - list(response_ids).index(self.open_id) - 1)


def samples_of(questions: Sequence[Question], trajectories: Sequence[Trajectory], think: ThinkTokens) -> list[Sample]:
    """questions[i] is what trajectories[i] answers."""
    return [
        make_sample(question, trajectory, reasoning_tokens=think.reasoning_length(trajectory.response_ids))
        for question, trajectory in zip(questions, trajectories, strict=True)
    ]


def attach(
    questions: Sequence[Question],
    trajectories: Sequence[Trajectory],
    samples: Sequence[Sample],
    verdicts: Sequence[Verdict],
) -> list[Scored]:
    """Verdicts beside their trajectories, with the share of true perceptions where the question has a truth."""
    out = []
    for question, trajectory, sample, verdict in zip(questions, trajectories, samples, verdicts, strict=True):
        true, stated = true_share(sample.reasoning, question.truth, question.task) if question.truth else (0, 0)
        out.append(Scored(question, trajectory, sample, verdict, true, stated))
    return out


def score(
    service: RewardService, questions: Sequence[Question], trajectories: Sequence[Trajectory], think: ThinkTokens
) -> list[Scored]:
    samples = samples_of(questions, trajectories, think)
    return attach(questions, trajectories, samples, service.score(samples))
