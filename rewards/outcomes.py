"""What came of one term on many samples, column-wise: how outcomes travel and wait to be composed.

Neighbours: `term_runner` fills columns from its sandboxes, `cache` from Redis; `assembly` makes verdicts of them.
Invariants: a position holds a finite score, or NaN and an entry in `odd` that says why; order is the order of the samples.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from rewards.sandbox_wire import Outcome

NO_SCORE = math.nan
NOT_RUN = math.nan  # seconds of an outcome that came from the cache


@dataclass(slots=True)
class Column:
    """One term on samples 0 .. n - 1. odd: outcomes that are more than a score (reason, parts, notes), by position."""

    scores: array[float]
    seconds: array[float]
    odd: dict[int, Outcome] = field(default_factory=dict)

    @classmethod
    def empty(cls, count: int) -> Column:
        """Nothing is known yet; `place` fills it."""
        return cls(array("d", [NO_SCORE]) * count, array("d", [NOT_RUN]) * count)

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> Column:
        return cls(
            array("d", [NO_SCORE if outcome.score is None else outcome.score for outcome in outcomes]),
            array("d", [outcome.seconds for outcome in outcomes]),
            {i: o for i, o in enumerate(outcomes) if o.score is None or o.parts or o.notes},
        )

    @classmethod
    def lost(cls, count: int, reason: str) -> Column:
        """Nothing was scored, and why."""
        column = cls.empty(count)
        outcome = Outcome(None, reason)
        column.odd = dict.fromkeys(range(count), outcome)
        return column

    def __len__(self) -> int:
        return len(self.scores)

    def extend(self, other: Column) -> None:
        """Puts another's samples behind these."""
        self.odd |= {len(self) + i: outcome for i, outcome in other.odd.items()}
        self.scores.extend(other.scores)
        self.seconds.extend(other.seconds)

    def part(self, first: int, step: int) -> Column:
        """Every step-th position from `first`."""
        odd = {i // step: outcome for i, outcome in self.odd.items() if i % step == first} if self.odd else {}
        return Column(self.scores[first::step], self.seconds[first::step], odd)

    def place(self, other: Column, positions: Sequence[int]) -> None:
        """other[i] goes to positions[i]."""
        for i, position in enumerate(positions):
            self.scores[position] = other.scores[i]
            self.seconds[position] = other.seconds[i]
        for i, outcome in other.odd.items():
            self.odd[positions[i]] = outcome
