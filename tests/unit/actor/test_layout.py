"""Parallel sizes: what they multiply to, what rows they need, what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actor.layout import Layout, LayoutError


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_data_parallel_fills_what_the_other_sizes_leave(tensor: int, pipeline: int, context: int, data: int) -> None:
    world = tensor * pipeline * context * data
    layout = Layout.of_world(world, tensor, pipeline, context)
    assert layout.data == data and layout.world_size == world


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((3, 2), r"tensor \(2\) x pipeline \(1\) x context \(1\) = 2 ranks must divide world_size \(3\)"),
        ((0,), "must divide world_size"),
        ((4, 1, 1, 1, True), "needs tensor above 1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes: tuple[int, ...], message: str) -> None:
    with pytest.raises(LayoutError, match=message):
        Layout.of_world(*sizes)


@pytest.mark.parametrize(
    ("layout", "rows", "words"),
    [
        (Layout(), 1, "one rank"),
        (Layout(tensor=2), 1, "tp2"),
        (Layout(tensor=4, sequence=True), 4, "tp4xsp"),
        (Layout(context=2, data=3), 4, "cp2xdp3"),
        (Layout(tensor=2, pipeline=2, context=2, sequence=True), 8, "tp2xpp2xcp2xsp"),
    ],
)
def test_rows_come_in_multiples_that_every_rank_can_share(layout: Layout, rows: int, words: str) -> None:
    assert layout.row_multiple == rows
    assert str(layout) == words
