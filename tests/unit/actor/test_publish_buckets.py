"""Packing of tensors into buckets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actor.publishing import Packer
from rollout import SHARED_PAGE

SIZES = st.lists(st.integers(0, 5 * SHARED_PAGE), max_size=40)


@given(SIZES, st.integers(1, 3 * SHARED_PAGE))
def test_tensors_keep_their_order_share_no_byte_and_start_on_pages(sizes: list[int], limit: int) -> None:
    packer, end = Packer(limit), 0
    for size in sizes:
        spot = packer.place(size)
        assert spot.start % SHARED_PAGE == 0 and spot.offset % 64 == 0
        assert spot.start + spot.offset >= end
        assert spot.offset + size <= spot.region
        end = spot.start + spot.offset + size


@given(SIZES, st.integers(1, 3 * SHARED_PAGE))
def test_a_bucket_exceeds_the_limit_only_for_one_tensor_that_does(sizes: list[int], limit: int) -> None:
    packer, members = Packer(limit), {}
    for size in sizes:
        members.setdefault(packer.place(size).bucket, []).append(size)
    filled = [[size for size in group if size] for group in members.values()]  # an empty tensor takes no room anywhere
    whole_pages = -(-limit // SHARED_PAGE) * SHARED_PAGE
    assert all(sum(group) <= whole_pages or len(group) == 1 for group in filled)
    assert list(members) == list(range(len(members)))


def test_a_limit_below_a_byte_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one byte"):
        Packer(0)
