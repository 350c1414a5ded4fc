"""Selection by how often a question was answered correctly: the rules that the recipe and its ablations use."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.stages.plans import histogram, keep_middling

SAMPLES = 8
COUNTS = st.dictionaries(st.text(min_size=1, max_size=4), st.integers(0, SAMPLES), max_size=40)
BOUND = st.integers(0, SAMPLES)


@pytest.mark.parametrize(
    ("low", "high", "kept"),
    [
        (3, 6, {3, 4, 5, 6}),  # Step-Audio-R1, section 4.3
        (0, 0, {0}),  # its control: only questions that are never answered
        (0, 8, set(range(9))),  # unfiltered
        (1, 7, set(range(1, 8))),
        (6, 3, set()),
    ],
)
def test_bounds_are_included(low: int, high: int, kept: set[int]) -> None:
    counts = {f"{count}": count for count in range(SAMPLES + 1)}
    assert {counts[name] for name in keep_middling(counts, low, high)} == kept


@settings(deadline=None)
@given(COUNTS)
def test_unfiltered_keeps_every_question_once_in_sorted_order(counts: dict[str, int]) -> None:
    assert keep_middling(counts, 0, SAMPLES) == sorted(counts)


@settings(deadline=None)
@given(COUNTS)
def test_never_right_middling_and_the_rest_share_the_questions_without_overlap(counts: dict[str, int]) -> None:
    parts = [keep_middling(counts, low, high) for low, high in [(0, 0), (1, 2), (3, 6), (7, 8)]]
    assert sorted(name for part in parts for name in part) == sorted(counts)


@settings(deadline=None)
@given(COUNTS, BOUND, BOUND)
def test_what_is_kept_is_what_the_histogram_says(counts: dict[str, int], low: int, high: int) -> None:
    bins = histogram(counts, SAMPLES)
    assert len(bins) == SAMPLES + 1 and sum(bins) == len(counts)
    assert len(keep_middling(counts, low, high)) == sum(bins[low : high + 1])


@settings(deadline=None)
@given(COUNTS, BOUND, BOUND, BOUND, BOUND)
def test_wider_bounds_keep_what_narrower_ones_keep(counts: dict[str, int], a: int, b: int, c: int, d: int) -> None:
    outer_low, low, high, outer_high = sorted([a, b, c, d])
    assert set(keep_middling(counts, low, high)) <= set(keep_middling(counts, outer_low, outer_high))


@settings(deadline=None)
@given(COUNTS, BOUND, BOUND, st.randoms(use_true_random=False))
def test_the_order_in_which_questions_came_does_not_matter(
    counts: dict[str, int], low: int, high: int, shuffler: object
) -> None:
    mixed = list(counts.items())
    shuffler.shuffle(mixed)  # type: ignore[attr-defined]
    assert keep_middling(dict(mixed), low, high) == keep_middling(counts, low, high)
