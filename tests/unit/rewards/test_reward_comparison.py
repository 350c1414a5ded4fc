"""Two versions of a reward on the same trajectories: figures against their definitions."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards import Sample, Verdict
from rewards.comparison import compare

SCORES = st.one_of(st.none(), st.sampled_from([0.0, 0.5, 1.0]), st.floats(-5, 5, width=32))


def sample(number: int) -> Sample:
    question = {"prompt": f"question {number}", "answer": "dog", "answer_kind": "exact", "choices": []}
    return Sample(f"t/{number}", question, "x", "", f"reply {number}", True, True, 1, 0)


def verdict(score: float | None) -> Verdict:
    return Verdict.invalid("no score") if score is None else Verdict(True, score)


def pairs(scores: list[tuple[float | None, float | None]]) -> list[tuple[Sample, Verdict, Verdict]]:
    return [(sample(i), verdict(a), verdict(b)) for i, (a, b) in enumerate(scores)]


@given(st.lists(st.tuples(SCORES, SCORES), max_size=60))
def test_figures_are_those_of_the_definitions(scores: list[tuple[float | None, float | None]]) -> None:
    found = compare(pairs(scores), keep=5)
    both = [(a, b) for a, b in scores if a is not None and b is not None]
    same = [(a is None and b is None) or (a is not None and b is not None and abs(a - b) <= 1e-9) for a, b in scores]
    assert (found.count, found.compared) == (len(scores), len(both))
    assert found.agreement == (sum(same) / len(scores) if scores else 1.0)
    assert found.flipped == len(scores) - sum(same)
    assert found.invalid_a == sum(a is None for a, _ in scores)
    assert found.invalid_b == sum(b is None for _, b in scores)
    if both:
        shifts = [b - a for a, b in both]
        assert found.mean_a == pytest.approx(statistics.fmean(a for a, _ in both), abs=1e-9)
        assert found.mean_b == pytest.approx(statistics.fmean(b for _, b in both), abs=1e-9)
        assert found.shift == pytest.approx(statistics.fmean(shifts), abs=1e-9)
        spread = statistics.stdev(shifts) if len(shifts) > 1 else 0.0
        assert found.spread == pytest.approx(spread, abs=1e-6)
        assert found.error == pytest.approx(spread / math.sqrt(len(both)), abs=1e-6)


@given(st.lists(st.tuples(SCORES, SCORES), max_size=60), st.integers(1, 8))
def test_the_largest_flips_are_kept_in_order(scores: list[tuple[float | None, float | None]], keep: int) -> None:
    everything = compare(pairs(scores), keep=1000).flips
    sizes = [flip.size for flip in everything]
    assert sizes == sorted(sizes, reverse=True) and len(sizes) == compare(pairs(scores)).flipped
    assert compare(pairs(scores), keep=keep).flips == everything[:keep]


def test_a_lost_verdict_counts_more_than_any_change_and_keeps_its_reason() -> None:
    found = compare(pairs([(0.0, 5.0), (1.0, None), (1.0, 1.0)]))
    assert [flip.trajectory_id for flip in found.flips] == ["t/1", "t/0"]
    assert found.flips[0].reason_b == "no score" and found.flips[0].b is None
    assert (found.flips[1].prompt, found.flips[1].reference, found.flips[1].reply) == ("question 0", "dog", "reply 0")
    assert found.shift == 2.5 and found.agreement == pytest.approx(1 / 3)
