"""Audio contribution: how much of a question's correctness is lost when its clip is taken away.

    contribution = share correct with the clip - mean share correct without it (silence, noise, another clip)
    corrected    = contribution / (1 - chance): of what a guess among the options shown leaves, how much the clip brings

Neighbours: `perturb` makes the questions without clip, `stages` sample and score them. The idea is AudioMCQ's split by audio
contribution. Invariants: pure; an invalid verdict is no wrong answer, a question without a valid one has no share.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.hearing.perturb import Perturbation, original_id
from orchestrator.stages.plans import mean_and_error

if TYPE_CHECKING:
    from orchestrator.stages.scoring import Scored
    from rollout import Question

KEPT, WRONG_WITH_CLIP, ANSWERED_WITHOUT_CLIP = "kept", "wrong_with_clip", "answered_without_clip"
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Contribution:
    """Shares correct, 0..1, of one question with its clip (`original`) and without; None: not asked that way.

    Raises ValueError for a share outside 0..1, or when no share without the clip is given.
    """

    question_id: str
    original: float
    silence: float | None = None
    noise: float | None = None
    swap: float | None = None

    def __post_init__(self) -> None:
        if not self._without:
            raise ValueError(f"{self.question_id!r} was never asked without its clip: give silence, noise or swap")
        if not all(0.0 <= share <= 1.0 for share in (self.original, *self._without)):
            raise ValueError(f"shares correct of {self.question_id!r} must lie in 0..1: {self}")

    @property
    def _without(self) -> list[float]:
        return [share for share in (self.silence, self.noise, self.swap) if share is not None]

    @property
    def perturbed(self) -> float:
        """Mean share correct without the clip."""
        return sum(self._without) / len(self._without)

    @property
    def contribution(self) -> float:
        return self.original - self.perturbed


@dataclass(frozen=True, slots=True)
class Grounded:
    """ids: questions kept, in their order; counts: questions by what became of them, adding up to those asked."""

    ids: tuple[str, ...]
    counts: dict[str, int]


def shares_correct(groups: Sequence[Sequence[Scored]]) -> dict[str, float]:
    """Share correct of each question's valid samples, by the id of the unperturbed question; without one it is left out."""
    shares = {}
    for group in groups:
        valid = [scored for scored in group if scored.verdict.valid]
        if valid:
            shares[original_id(valid[0].question.id)] = sum(scored.correct for scored in valid) / len(valid)
    return shares


def contributions(
    original: Mapping[str, float], perturbed: Mapping[Perturbation, Mapping[str, float]]
) -> list[Contribution]:
    """Questions that have a share correct with the clip and in every perturbation, in the order of `original`."""
    return [
        Contribution(name, share, **{how.value: shares[name] for how, shares in perturbed.items()})
        for name, share in original.items()
        if all(name in shares for shares in perturbed.values())
    ]


def audio_contribution(items: Sequence[Contribution]) -> tuple[float, float]:
    """Mean and its standard error over questions (NaN and 0 for none)."""
    return mean_and_error([item.contribution for item in items])


def chance_of(question: Question) -> float:
    """Share correct of a blind guess among the options shown; 0 for a question without options."""
    return 1 / len(question.choices) if question.choices else 0.0


def corrected_contribution(items: Sequence[Contribution], chance: Mapping[str, float]) -> float:
    """Sum of contributions over the sum of what chance leaves: without the clip a model that guesses loses 1 - chance, so that the raw
    mean can't reach 1 where options are shown. chance: by question. NaN where there is nothing to gain."""
    room = sum(1 - chance[item.question_id] for item in items)
    return sum(item.contribution for item in items) / room if room > ROUNDING else math.nan


def perception_grounded(
    items: Sequence[Contribution],
    *,
    min_original: float,
    max_perturbed: float | None = None,
    min_drop: float | None = None,
) -> Grounded:
    """Questions answered with the clip at least `min_original` of the time, and without it at most `max_perturbed` of the time,
    or at least `min_drop` less often, or both. Bounds are included.

    Raises ValueError when neither limit is given.
    """
    if max_perturbed is None and min_drop is None:
        raise ValueError("say when an answer counts as lost: max_perturbed, min_drop or both")
    counts = {WRONG_WITH_CLIP: 0, ANSWERED_WITHOUT_CLIP: 0, KEPT: 0}
    kept = []
    for item in items:
        if item.original < min_original - ROUNDING:
            reason = WRONG_WITH_CLIP
        elif (max_perturbed is not None and item.perturbed > max_perturbed + ROUNDING) or (
            min_drop is not None and item.contribution < min_drop - ROUNDING
        ):
            reason = ANSWERED_WITHOUT_CLIP
        else:
            reason = KEPT
            kept.append(item.question_id)
        counts[reason] += 1
    return Grounded(tuple(kept), counts)
