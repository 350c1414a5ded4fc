"""Which worker gets which question."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rollout.routing import spread

COSTS = st.lists(st.integers(1, 500), max_size=40)
LOADS = st.lists(st.integers(0, 2000), min_size=1, max_size=6)


@given(COSTS, LOADS)
def test_every_question_goes_to_one_worker_in_order(costs: list[int], loads: list[int]) -> None:
    shares = spread(costs, loads)
    assert len(shares) == len(loads)
    assert sorted(index for share in shares for index in share) == list(range(len(costs)))
    assert all(share == sorted(share) for share in shares)


@given(COSTS, LOADS)
def test_no_worker_ends_more_than_one_question_above_another_that_got_less(costs: list[int], loads: list[int]) -> None:
    shares = spread(costs, loads)
    totals = [load + sum(costs[j] for j in share) for load, share in zip(loads, shares, strict=True)]
    for total, share in zip(totals, shares, strict=True):
        if share:
            assert total - costs[share[-1]] <= min(totals)


@given(COSTS, LOADS)
def test_the_split_depends_on_costs_and_loads_only(costs: list[int], loads: list[int]) -> None:
    assert spread(costs, loads) == spread(list(costs), list(loads))
