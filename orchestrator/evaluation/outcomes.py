"""One judged sample, reduced to what statistics need.

Neighbours: made from stored trajectories (`chunks`) or from a run's `Scored`; `statistics` and `report` read it. Invariants: pure; a
sample whose verdict is invalid has no value (None), it never counts as wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rewards import Sample, StoredTrajectory, Verdict, true_share

RIGHT = 1.0
VALUED = ("answer", "math", "judge")  # components that say how good a reply is, the first one that is there


@dataclass(frozen=True, slots=True)
class Outcome:
    """value: how good the reply is, 1.0 right (a judge's levels lie between), None when its verdict is invalid; *_tokens: lengths;
    thinks: one well-formed think block with something in it; claims: perceptions stated in the reasoning that could be checked."""

    question_id: str
    task: str
    domain: str
    dataset: str
    value: float | None
    thinks: bool
    think_tokens: int
    response_tokens: int
    finished: bool
    true_claims: int = 0
    stated_claims: int = 0

    @property
    def right(self) -> bool:
        return self.value == RIGHT


def outcome_of(sample: Sample, verdict: Verdict) -> Outcome:
    """Perceptions are checked against the question's truth where it has one."""
    question = sample.question
    true, stated = true_share(sample.reasoning, sample.truth, question["task"]) if sample.truth else (0, 0)
    return Outcome(
        question_id=question["id"],
        task=question["task"],
        domain=question["domain"],
        dataset=question["dataset"],
        value=_value(verdict),
        thinks=sample.well_formed and bool(sample.reasoning),
        think_tokens=think_tokens(sample),
        response_tokens=sample.response_tokens,
        finished=sample.finished,
        true_claims=true,
        stated_claims=stated,
    )


def outcomes_of(stored: Iterable[StoredTrajectory]) -> list[Outcome]:
    return [outcome_of(one.sample, one.verdict) for one in stored]


def by_question(outcomes: Sequence[Outcome]) -> list[list[Outcome]]:
    """Samples of each question, questions in order of first appearance."""
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.dataset, outcome.question_id), []).append(outcome)
    return list(groups.values())


def think_tokens(sample: Sample) -> int:
    """The think length of every report, metric and sentinel: 0 for the empty think form, whose line breaks are no reasoning; the
    whole response where the block was never closed."""
    if not sample.reasoning:
        return 0
    return sample.reasoning_tokens or sample.response_tokens


def _value(verdict: Verdict) -> float | None:
    if not verdict.valid:
        return None
    found = [verdict.components[name] for name in VALUED if name in verdict.components]
    return found[0] if found else verdict.score
