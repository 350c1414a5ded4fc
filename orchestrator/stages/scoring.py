"""Trajectories → verdicts and what a person wants to know about them.

Neighbours: `rewards` scores, `stages.evaluate` / `select` / `reinforce` read the result. Invariants: order is kept; an invalid
verdict never counts as a wrong answer, it is counted as invalid.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.errors import RunPaused
from rewards import (
    RewardSpec,
    Sample,
    StoredTrajectory,
    Verdict,
    applicable,
    make_sample,
    modality_of,
    true_share,
)
from rollout import Question, Trajectory

CORRECT = 1.0
CORRECTNESS = ("answer", "math")  # components that say whether a reply is right, the first one that is there
EXAMPLES = 3  # of failures in a message


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
        found = [self.verdict.components[name] for name in CORRECTNESS if name in self.verdict.components]
        return found[:1] == [CORRECT]

    @property
    def stored(self) -> StoredTrajectory:
        return StoredTrajectory(self.sample, self.verdict)

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
    """questions[i] is what trajectories[i] answers. Samples of one question share its fields."""
    fields = {id(question): dataclasses.asdict(question) for question in {id(q): q for q in questions}.values()}
    return [
        make_sample(
            question,
            trajectory,
            reasoning_tokens=think.reasoning_length(trajectory.response_ids),
            question_fields=fields[id(question)],
        )
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


def failing_reward(scored: Sequence[Scored], spec: RewardSpec) -> tuple[str, list[Scored], int] | None:
    """(name, the samples it failed on, how many it was asked for) of the function with the largest share of failures.

    A function failed on a sample when the verdict is invalid and has no component of it. None when nothing is invalid.
    """
    asked: dict[str, int] = {}
    failed: dict[str, list[Scored]] = {}
    for s in scored:
        for term in applicable(spec.terms, modality_of(s.sample.question), s.question.dataset):
            asked[term.name] = asked.get(term.name, 0) + 1
            if not s.verdict.valid and term.name not in s.verdict.components:
                failed.setdefault(term.name, []).append(s)
    if not failed:
        return None
    worst = max(failed, key=lambda name: len(failed[name]) / asked[name])
    return worst, failed[worst], asked[worst]


def pause_on_failing_reward(scored: Sequence[Scored], spec: RewardSpec, limit: float, where: str) -> None:
    """Raises RunPaused with the function's name and three examples when it failed on more than `limit` of its samples, or on all;
    and when that many verdicts are invalid through no single function (no term counts for a modality, several fail a little)."""
    invalid = [s for s in scored if not s.verdict.valid]
    worst = failing_reward(scored, spec)
    name, failed, asked = worst or ("", [], 1)
    if not failed or (len(failed) <= limit * asked and len(failed) < asked):
        if not invalid or (len(invalid) <= limit * len(scored) and len(invalid) < len(scored)):
            return
        name, failed, asked = "as a whole", invalid, len(scored)
    examples = "; ".join(f"{s.trajectory.id}: {s.verdict.reason}" for s in failed[:EXAMPLES])
    raise RunPaused(
        f"{where}: the reward {name!r} failed on {len(failed)} of {asked} samples (limit {limit:.0%}). Examples: {examples}. "
        f"Nothing was trained on them. Try it with `mgrd rewards score`, mend it, and go on with run.resume=true "
        "(reward.accept_changes=true takes the mended source)"
    )
