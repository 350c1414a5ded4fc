"""Figures with their uncertainty: bootstrap intervals, pass@k, and whether longer thinking helps (pure).

Neighbours: `outcomes` in, `report` out. Invariants: questions are what is resampled, since samples of one question are not
independent; the same arguments give the same interval (seeded); samples without a value are left out, never wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.evaluation.outcomes import Outcome, by_question

RESAMPLES = 2000  # the ends of a 95 % interval are then known to about a twentieth of its width
LEVEL = 0.95
ROWS = 200  # resamples at a time, so that 10,000 questions take 16 MB
LENGTH_BINS = 5
HISTOGRAM_BINS = 24


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its bootstrap interval; questions: how many it rests on. NaN throughout when there are none."""

    value: float
    low: float
    high: float
    questions: int


@dataclass(frozen=True, slots=True)
class LengthBin:
    """Samples whose reasoning has shortest..longest tokens. accuracy: mean value; truncated: share cut at the token limit."""

    shortest: int
    longest: int
    mean_tokens: float
    samples: int
    accuracy: Estimate
    truncated: float


@dataclass(frozen=True, slots=True)
class LengthEffect:
    """Within questions: value of the sample that thinks longer minus that of the one that thinks shorter, averaged over all pairs
    of a question with unequal lengths, then over questions. pairs: how many; longer_better, shorter_better: pairs in which that
    one scored higher; verdict: `helps` or `hurts` when the interval leaves out 0, else `no clear effect`."""

    difference: Estimate
    pairs: int
    longer_better: int
    shorter_better: int
    verdict: str


@dataclass(frozen=True, slots=True)
class LengthDistribution:
    """Reasoning lengths in tokens; empty: share without any; edges [B + 1] and counts [B]: histogram."""

    samples: int
    mean: float
    std: float
    empty: float
    quantiles: dict[str, float]
    edges: tuple[float, ...]
    counts: tuple[int, ...]


def ratio(parts: Sequence[float], wholes: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """sum(parts) / sum(wholes) over questions, with the percentile interval of questions drawn with replacement.

    parts, wholes: [Q], one entry a question; questions with a whole of 0 are left out. Source: Efron and Tibshirani, "An
    Introduction to the Bootstrap" (1993), chapter 13.
    """
    part_Q, whole_Q = np.asarray(parts, float), np.asarray(wholes, float)
    if part_Q.shape != whole_Q.shape:
        raise ValueError(f"{part_Q.size} parts and {whole_Q.size} wholes; give one of each a question")
    kept = whole_Q > 0
    part_Q, whole_Q = part_Q[kept], whole_Q[kept]
    count = part_Q.size
    if not count:
        return Estimate(math.nan, math.nan, math.nan, 0)
    rng = np.random.default_rng(seed)
    drawn: list[np.ndarray] = []
    for start in range(0, resamples, ROWS):
        times_RQ = rng.multinomial(count, np.full(count, 1 / count), size=min(ROWS, resamples - start))
        drawn.append((times_RQ @ part_Q) / (times_RQ @ whole_Q))
    low, high = np.quantile(np.concatenate(drawn), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    value = float(part_Q.sum() / whole_Q.sum())
    return Estimate(value, min(float(low), value), max(float(high), value), int(count))


def mean(values: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """Mean over questions; values: [Q]."""
    return ratio(values, np.ones(len(values)).tolist(), seed=seed, resamples=resamples)


def accuracy(outcomes: Sequence[Outcome], *, seed: int = 0) -> Estimate:
    """Mean over questions of the mean value of a question's samples."""
    return mean([sum(values) / len(values) for values in _values(outcomes)], seed=seed)


def accuracy_by(outcomes: Sequence[Outcome], label: Callable[[Outcome], str], *, seed: int = 0) -> dict[str, Estimate]:
    """`accuracy` of the outcomes of each label, labels sorted; outcomes with an empty label are left out."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if name := label(outcome):
            groups.setdefault(name, []).append(outcome)
    return {name: accuracy(groups[name], seed=seed) for name in sorted(groups)}


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Chance that at least one of k samples drawn without replacement from `samples` is right: 1 - C(n-c, k) / C(n, k).

    Source: Chen et al., "Evaluating Large Language Models Trained on Code" (2021), section 2.1. Raises ValueError unless
    0 <= right <= samples and 1 <= k <= samples.
    """
    if not (0 <= right <= samples and 1 <= k <= samples):
        raise ValueError(f"pass@{k} of {right} right among {samples} samples makes no sense; need 1 <= k <= samples")
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


def pass_at(outcomes: Sequence[Outcome], k: int, *, seed: int = 0) -> Estimate:
    """Mean pass@k over the questions that have k valid samples or more."""
    groups = [values for values in _values(outcomes) if len(values) >= k]
    return mean([pass_at_k(len(values), sum(value == 1.0 for value in values), k) for values in groups], seed=seed)


def length_bins(outcomes: Sequence[Outcome], *, bins: int = LENGTH_BINS, seed: int = 0) -> list[LengthBin]:
    """Accuracy by quantile bins of reasoning length over all samples; fewer bins where lengths repeat.

    It mixes questions: hard ones may be thought about longer. `longer_against_shorter` is free of that.
    """
    valid = [o for o in outcomes if o.value is not None]
    if not valid:
        return []
    lengths = np.array([o.think_tokens for o in valid])
    cuts = np.unique(np.quantile(lengths, np.linspace(0, 1, bins + 1)[1:-1]))
    place = np.searchsorted(cuts, lengths, side="left")
    made = []
    for index in np.unique(place):
        members = [o for o, where in zip(valid, place, strict=True) if where == index]
        groups = by_question(members)
        tokens = [o.think_tokens for o in members]
        made.append(
            LengthBin(
                shortest=min(tokens),
                longest=max(tokens),
                mean_tokens=sum(tokens) / len(tokens),
                samples=len(members),
                accuracy=ratio([sum(_known(group)) for group in groups], [float(len(g)) for g in groups], seed=seed),
                truncated=sum(not o.finished for o in members) / len(members),
            )
        )
    return made


def longer_against_shorter(
    outcomes: Sequence[Outcome], *, finished_only: bool = True, thinking_only: bool = False, seed: int = 0
) -> LengthEffect:
    """Does longer thinking help, question held fixed (the claim of Step-Audio-R1, section 1)?

    finished_only: leave out samples cut at the token limit; they are long and have no reply, whatever the thinking was worth.
    thinking_only: leave out samples without any reasoning, so that length is compared and not thinking with not thinking.
    """
    differences: list[float] = []
    pairs = longer_better = shorter_better = 0
    compared = [
        o
        for o in outcomes
        if o.value is not None and (o.finished or not finished_only) and (o.think_tokens > 0 or not thinking_only)
    ]
    for group in by_question(compared):
        length_S = np.array([o.think_tokens for o in group])
        value_S = np.array(_known(group))
        longer_SS = length_S[:, None] > length_S[None, :]
        gain = (value_S[:, None] - value_S[None, :])[longer_SS]
        if gain.size:
            differences.append(float(gain.mean()))
            pairs += gain.size
            longer_better += int((gain > 0).sum())
            shorter_better += int((gain < 0).sum())
    effect = mean(differences, seed=seed)
    verdict = "helps" if effect.low > 0 else "hurts" if effect.high < 0 else "no clear effect"
    return LengthEffect(effect, pairs, longer_better, shorter_better, verdict)


def length_distribution(lengths: Sequence[int]) -> LengthDistribution:
    if not lengths:
        return LengthDistribution(0, math.nan, math.nan, math.nan, {}, (), ())
    length_N = np.asarray(lengths, float)
    counts, edges = np.histogram(length_N, bins=min(HISTOGRAM_BINS, max(1, int(np.ptp(length_N)))))
    shares = {"min": 0.0, "p10": 0.1, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p90": 0.9, "max": 1.0}
    return LengthDistribution(
        samples=len(lengths),
        mean=float(length_N.mean()),
        std=float(length_N.std()),
        empty=float((length_N == 0).mean()),
        quantiles={name: float(np.quantile(length_N, share)) for name, share in shares.items()},
        edges=tuple(float(edge) for edge in edges),
        counts=tuple(int(count) for count in counts),
    )


def macro(estimates: Mapping[str, Estimate]) -> float:
    """Mean of the groups' values, each group counted once; NaN without groups."""
    return sum(e.value for e in estimates.values()) / len(estimates) if estimates else math.nan


def share(part: float, whole: float) -> float:
    """NaN of nothing."""
    return part / whole if whole else math.nan


def _values(outcomes: Sequence[Outcome]) -> list[list[float]]:
    """Values of the valid samples of each question that has any."""
    return [values for group in by_question(outcomes) if (values := _known(group))]


def _known(group: Sequence[Outcome]) -> list[float]:
    return [outcome.value for outcome in group if outcome.value is not None]
