"""The cursor: every question once an epoch, whatever the batches and restarts."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.datasets import Cursor


@st.composite
def sizes_and_takes(draw: st.DrawFn) -> tuple[int, list[int]]:
    size = draw(st.integers(1, 40))
    return size, draw(st.lists(st.integers(0, size), max_size=30))


@given(plan=sizes_and_takes(), seed=st.integers(0, 2**31), restarts=st.sets(st.integers(0, 29)))
@settings(max_examples=200, deadline=None)
def test_no_index_is_skipped_or_repeated_within_an_epoch_across_any_restarts(
    plan: tuple[int, list[int]], seed: int, restarts: set[int]
) -> None:
    size, takes = plan
    cursor, stream = Cursor(size, seed), []
    for number, count in enumerate(takes):
        if number in restarts:
            state = json.loads(json.dumps(cursor.state_dict()))
            cursor = Cursor(size, seed)
            cursor.load_state_dict(state)
        taken = cursor.take(count)
        assert len(taken) == count == len(set(taken)), "a batch holds no question twice"
        stream += taken
    for start in range(0, len(stream), size):
        epoch = stream[start : start + size]
        assert len(set(epoch)) == len(epoch)
        assert set(epoch) <= set(range(size))


@given(plan=sizes_and_takes(), seed=st.integers(0, 1000), cut=st.integers(0, 29))
@settings(max_examples=100, deadline=None)
def test_a_restored_cursor_goes_on_as_the_one_that_was_saved(plan: tuple[int, list[int]], seed: int, cut: int) -> None:
    size, takes = plan
    whole, saved = Cursor(size, seed), Cursor(size, seed)
    for count in takes[:cut]:
        whole.take(count)
        saved.take(count)
    restored = Cursor(size, seed)
    restored.load_state_dict(saved.state_dict())
    assert [whole.take(c) for c in takes[cut:]] == [restored.take(c) for c in takes[cut:]]


def test_epochs_differ_in_order_and_seeds_differ_too() -> None:
    cursor = Cursor(50, seed=1)
    first, second = cursor.take(50), cursor.take(50)
    assert first != second
    assert first != Cursor(50, seed=2).take(50)
    assert first == Cursor(50, seed=1).take(50)


def test_a_batch_larger_than_the_pool_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot take 5 different questions out of 4"):
        Cursor(4, seed=0).take(5)


def test_a_state_of_another_data_set_is_refused() -> None:
    with pytest.raises(ValueError, match="saved cursor is over 4 questions"):
        Cursor(5, seed=0).load_state_dict(Cursor(4, seed=0).state_dict())


def test_an_empty_pool_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one question"):
        Cursor(0, seed=0)
