"""Columns of outcomes → verdicts: components and parts by name, notes, seconds, the composed score.

Neighbours: `composition` says which terms count and what their sum is; `scorer` and `service` bring columns of a whole group.
Invariants: pure; order is kept; a verdict is valid only if every term that counts for its sample gave a finite score; the score
is what `compose` gives for the components (kept by components, since many samples share theirs).
"""

from __future__ import annotations

import gc
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from typing import Any

from rewards.composition import applicable, compose, joint_components, modality_of
from rewards.errors import RewardError
from rewards.messages import RewardSpec, Sample, Verdict
from rewards.outcomes import Column

KEPT_SUMS = 4096  # of each group; beyond that components are as good as continuous


@dataclass(frozen=True, slots=True)
class Group:
    """Samples for which the same terms count. terms: their places in the specification; names: of the same."""

    modality: str
    dataset: str
    terms: tuple[int, ...]
    names: tuple[str, ...]


class Assembler:
    """Plans and composes for one specification."""

    def __init__(self, spec: RewardSpec) -> None:
        self.spec = spec
        self._groups: dict[tuple[str, str], Group] = {}
        self._sums: dict[Group, dict[tuple[float, ...], float | RewardError]] = {}

    def group_of(self, sample: Sample) -> Group:
        key = (modality_of(sample.question), sample.question.get("dataset") or "")
        return self._groups.get(key) or self._new_group(*key)

    def grouped(self, samples: Sequence[Sample]) -> dict[Group, list[int]]:
        """Positions of the samples of each group, in order."""
        found: dict[Group, list[int]] = {}
        question: Any = None
        members: list[int] = []
        for i, sample in enumerate(samples):
            if sample.question is not question:  # most often the same as before
                question = sample.question
                members = found.setdefault(self.group_of(sample), [])
            members.append(i)
        return found

    def verdicts(self, group: Group, columns: Sequence[Column]) -> list[Verdict]:
        """One verdict a sample of the group; columns: one a term, in the group's order."""
        if not columns:
            raise ValueError("a group without terms has no columns; see `no_terms`")
        rows: list[tuple[float, ...]] = list(zip(*(column.scores for column in columns), strict=True))
        sums = self._sums[group]
        totals: list[Any] = [sums[row] if row in sums else self._total(group, row) for row in rows]
        odd = {i for column in columns for i in column.odd}
        odd |= {i for i, total in enumerate(totals) if not isinstance(total, float)}
        with paused_collection():
            names = group.names
            if len(names) == 1:
                name = names[0]
                components = [{name: score} for score in columns[0].scores]
            else:
                components = [dict(zip(names, row, strict=True)) for row in rows]
            if self.spec.joint:
                components = [self._with_joint(group, values) for values in components]
            made = valid_verdicts(totals, components, seconds_of(names, columns))
        for i in odd:
            made[i] = self._odd_verdict(group, [column.odd.get(i) for column in columns], rows[i], made[i].seconds)
        return made

    def no_terms(self, group: Group) -> Verdict:
        """For samples that no term counts for."""
        try:
            compose(self.spec, {}, group.modality, group.dataset)
        except RewardError as error:
            return Verdict.invalid(str(error))
        raise AssertionError("a reward without terms was composed")

    def _new_group(self, modality: str, dataset: str) -> Group:
        chosen = applicable(self.spec.terms, modality, dataset)
        group = Group(
            modality,
            dataset,
            tuple(self.spec.terms.index(term) for term in chosen),
            tuple(term.name for term in chosen),
        )
        self._groups[modality, dataset] = group
        self._sums[group] = {}
        return group

    def _total(self, group: Group, row: tuple[float, ...]) -> float | RewardError:
        total: float | RewardError
        if any(map(math.isnan, row)):
            return RewardError("a component is missing")  # never shown: the position is odd and says why
        try:
            total = compose(self.spec, dict(zip(group.names, row, strict=True)), group.modality, group.dataset)
        except RewardError as error:
            total = error
        sums = self._sums[group]
        if len(sums) >= KEPT_SUMS:
            sums.clear()
        sums[row] = total
        return total

    def _with_joint(self, group: Group, components: dict[str, float]) -> dict[str, float]:
        if any(map(math.isnan, components.values())):
            return components
        return components | joint_components(self.spec, components, group.modality)

    def _odd_verdict(
        self, group: Group, outcomes: Sequence[Any], row: tuple[float, ...], seconds: dict[str, float]
    ) -> Verdict:
        """With parts, notes or reasons."""
        components = {name: score for name, score in zip(group.names, row, strict=True) if not math.isnan(score)}
        parts: dict[str, float] = {}
        notes: dict[str, str] = {}
        reasons: list[str] = []
        for name, outcome in zip(group.names, outcomes, strict=True):
            if outcome is None:
                continue
            parts |= {f"{name}/{part}": value for part, value in outcome.parts.items()}
            if outcome.notes:
                notes[name] = outcome.notes
            if outcome.score is None:
                reasons.append(outcome.reason)
        total = None if reasons else self._total(group, row)
        if isinstance(total, RewardError):
            reasons.append(str(total))
            total = None
        if total is not None and self.spec.joint:
            components = self._with_joint(group, components)
        return Verdict(total is not None, total, components | parts, "; ".join(reasons), notes, seconds)


_new: Callable[[type[Verdict]], Verdict] = object.__new__
_SETTERS = {name: getattr(Verdict, name).__set__ for name in Verdict.__slots__}


def valid_verdicts(
    totals: Sequence[float], components: Iterable[dict[str, float]], seconds: Iterable[dict[str, float]]
) -> list[Verdict]:
    """`Verdict(True, total, components, "", {}, seconds)` of each, at under half the cost: fields are set column by column
    without the check of the constructor, so totals must be finite (what is not is replaced by the caller)."""
    made = [_new(Verdict) for _ in totals]
    fields: Mapping[str, Iterable[Any]] = {
        "valid": repeat(True),
        "score": totals,
        "components": components,
        "reason": repeat(""),
        "notes": [{} for _ in totals],
        "seconds": seconds,
    }
    for name, values in fields.items():
        deque(map(_SETTERS[name], made, values), maxlen=0)
    return made


def seconds_of(names: Sequence[str], columns: Sequence[Column]) -> list[dict[str, float]]:
    """Seconds by name of what ran; nothing for what came from the cache."""
    if any(math.isnan(sum(column.seconds)) for column in columns):
        return [
            {name: value for name, value in zip(names, row, strict=True) if not math.isnan(value)}
            for row in zip(*(column.seconds for column in columns), strict=True)
        ]
    if len(names) == 1:
        name = names[0]
        return [{name: value} for value in columns[0].seconds]
    return [dict(zip(names, row, strict=True)) for row in zip(*(column.seconds for column in columns), strict=True)]


@contextmanager
def paused_collection() -> Iterator[None]:
    """No garbage collection meanwhile: what is made here is all kept, so looking through it finds nothing."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
