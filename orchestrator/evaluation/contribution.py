"""What the audio contributes to the answers: the same questions asked without their clips.

Neighbours: `orchestrator.hearing` makes the questions and the rule, `runner` asks them as passes of their own, `report` carries the result.
Invariants: greedy with and without the clip, so that nothing but the clip differs; a question counts only when it has a valid verdict
in every way it was asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.evaluation.outcomes import Outcome, by_question
from orchestrator.evaluation.runner import Pass
from orchestrator.evaluation.statistics import Estimate, mean, ratio, share
from orchestrator.hearing.contribution import contributions
from orchestrator.hearing.perturb import Perturbation, original_id, perturbed
from rollout import Question, SamplingSpec

PREFIX = "without_clip_"


@dataclass(frozen=True, slots=True)
class ContributionReport:
    """Mean values with the clip and with it replaced, by how; contribution: with minus the mean of without, by question; chance: mean
    value of a blind guess among the options shown; corrected: contribution as a share of what chance leaves."""

    questions: int
    with_clip: Estimate
    without_clip: dict[str, Estimate]
    contribution: Estimate
    chance: float
    corrected: Estimate


def passes_without_clips(questions: Sequence[Question], spec: SamplingSpec, folder: Path, seed: int) -> list[Pass]:
    """One pass a way of taking the clip away, over the questions that have one. Raises HearingError, AudioError."""
    audio = [question for question in questions if question.clips]
    if not audio:
        return []
    return [Pass(f"{PREFIX}{how}", perturbed(audio, how, folder=folder, seed=seed), spec) for how in Perturbation]


def contribution_report(
    greedy: Sequence[Outcome],
    without: Mapping[str, Sequence[Outcome]],
    *,
    chance: Mapping[str, float],
    seed: int = 0,
) -> ContributionReport:
    """greedy: outcomes with the clip; without: outcomes by the name of the pass; chance: by question (`hearing.chance_of`)."""
    shares = {Perturbation(name.removeprefix(PREFIX)): _shares(outcomes) for name, outcomes in without.items()}
    asked = set().union(*(found.keys() for found in shares.values())) if shares else set()
    items = contributions({name: share for name, share in _shares(greedy).items() if name in asked}, shares)
    values = {how: [getattr(item, how.value) for item in items] for how in shares}
    gained, blind = [item.contribution for item in items], [chance[item.question_id] for item in items]
    return ContributionReport(
        questions=len(items),
        with_clip=mean([item.original for item in items], seed=seed),
        without_clip={how.value: mean(found, seed=seed) for how, found in values.items()},
        contribution=mean(gained, seed=seed),
        chance=share(sum(blind), len(blind)),
        corrected=ratio(gained, [1 - guess for guess in blind], seed=seed),
    )


def _shares(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Mean value of each question's valid samples, by the id of the unperturbed question."""
    found = {}
    for group in by_question(outcomes):
        values = [outcome.value for outcome in group if outcome.value is not None]
        if values:
            found[original_id(group[0].question_id)] = sum(values) / len(values)
    return found
