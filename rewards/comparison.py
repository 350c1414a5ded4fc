"""What another version of a reward would have changed: two verdicts on each trajectory, summed up.

Neighbours: `lab.diff` makes the pairs, the command line shows them. Invariants: pure, one pass, memory for the kept flips only;
an invalid verdict is never counted as a score.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass

from rewards.messages import Sample, Verdict

TOLERANCE = 1e-9  # scores this close are the same: sums in another order


@dataclass(frozen=True, slots=True)
class Flip:
    """A trajectory on which two versions differ; a, b: scores, None with a reason where invalid."""

    trajectory_id: str
    prompt: str
    reference: str
    reply: str
    a: float | None
    b: float | None
    reason_a: str = ""
    reason_b: str = ""

    @property
    def size(self) -> float:
        """How much they differ; losing or gaining a verdict counts more than any change of it."""
        return math.inf if self.a is None or self.b is None else abs(self.b - self.a)


@dataclass(frozen=True, slots=True)
class Difference:
    """count: trajectories; agreement: share with the same score, or invalid by both (1.0 when there are none); invalid_a,
    invalid_b: counts; compared: valid by both, over which mean_a, mean_b, shift (mean of b - a) and spread (its standard
    deviation, 0 below two) are taken; flipped: how many differ; flips: the largest of them, largest first."""

    count: int
    compared: int
    agreement: float
    mean_a: float
    mean_b: float
    shift: float
    spread: float
    invalid_a: int
    invalid_b: int
    flipped: int
    flips: tuple[Flip, ...]

    @property
    def error(self) -> float:
        """Standard error of the shift."""
        return self.spread / math.sqrt(self.compared) if self.compared else 0.0


def compare(pairs: Iterable[tuple[Sample, Verdict, Verdict]], *, keep: int = 20) -> Difference:
    """keep: flips that are kept, the largest; of equal ones the first."""
    count = compared = agreed = invalid_a = invalid_b = 0
    mean_a = mean_b = shift = squares = 0.0
    kept: list[tuple[float, int, Flip]] = []
    for sample, a, b in pairs:
        count += 1
        invalid_a += a.score is None
        invalid_b += b.score is None
        if a.score is not None and b.score is not None:
            compared += 1
            difference = b.score - a.score
            mean_a += (a.score - mean_a) / compared
            mean_b += (b.score - mean_b) / compared
            step = difference - shift
            shift += step / compared  # Welford's recurrence
            squares += step * (difference - shift)
        if _same(a.score, b.score):
            agreed += 1
            continue
        flip = _flip(sample, a, b)
        heapq.heappush(kept, (flip.size, -count, flip))
        if len(kept) > keep:
            heapq.heappop(kept)
    flips = tuple(flip for _, _, flip in sorted(kept, key=lambda entry: (-entry[0], -entry[1])))
    spread = math.sqrt(squares / (compared - 1)) if compared > 1 else 0.0
    agreement = agreed / count if count else 1.0
    return Difference(
        count, compared, agreement, mean_a, mean_b, shift, spread, invalid_a, invalid_b, count - agreed, flips
    )


def _same(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return a is b
    return abs(a - b) <= TOLERANCE


def _flip(sample: Sample, a: Verdict, b: Verdict) -> Flip:
    question = sample.question
    return Flip(
        sample.trajectory_id,
        str(question.get("prompt", "")),
        str(question.get("answer", "")),
        sample.reply,
        a.score,
        b.score,
        a.reason,
        b.reason,
    )
