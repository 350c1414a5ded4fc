"""Packing: every sequence once, no micro-batch over budget, shared prompts, balanced ranks, bounded attention padding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actor import packing
from actor.packing import Lengths, PackingError, Unit

BUDGET = 64


@st.composite
def batches(draw: st.DrawFn) -> list[Lengths]:
    prompts = draw(st.lists(st.integers(1, 40), min_size=1, max_size=6))
    rows = draw(st.lists(st.tuples(st.integers(0, len(prompts) - 1), st.integers(1, 24)), min_size=1, max_size=30))
    return [Lengths(prompt, prompts[prompt], response) for prompt, response in rows]


def rows_of(lengths: list[Lengths], unit: Unit) -> int:
    return lengths[unit.members[0]].prompt_tokens + sum(lengths[m].response_tokens - 1 for m in unit.members)


@given(batches(), st.booleans())
def test_units_hold_every_sequence_once_within_budget_and_one_prompt(lengths: list[Lengths], share: bool) -> None:
    units = packing.make_units(lengths, BUDGET, share)
    assert sorted(m for unit in units for m in unit.members) == list(range(len(lengths)))
    for unit in units:
        assert unit.rows == rows_of(lengths, unit) <= BUDGET
        assert len({lengths[m].prompt for m in unit.members}) == 1
        assert share or len(unit.members) == 1


@given(batches(), st.integers(1, 5))
def test_ranks_differ_by_at_most_one_unit(lengths: list[Lengths], ranks: int) -> None:
    units = packing.make_units(lengths, BUDGET)
    shares = packing.balance(units, ranks)
    loads = [sum(unit.rows for unit in share) for share in shares]
    assert sorted(m for share in shares for unit in share for m in unit.members) == list(range(len(lengths)))
    assert max(loads) - min(loads) <= max(unit.rows for unit in units)


@given(batches())
def test_micro_batches_stay_in_budget_and_no_two_could_be_one(lengths: list[Lengths]) -> None:
    units = packing.make_units(lengths, BUDGET)
    bins = packing.first_fit_decreasing(units, BUDGET)
    loads = [sum(unit.rows for unit in bin_) for bin_ in bins]
    assert sorted(m for bin_ in bins for unit in bin_ for m in unit.members) == list(range(len(lengths)))
    assert max(loads) <= BUDGET
    assert all(a + b > BUDGET for i, a in enumerate(loads) for b in loads[i + 1 :])


@given(batches(), st.integers(0, 5))
def test_minibatches_split_all_sequences_the_same_way_for_a_seed(lengths: list[Lengths], seed: int) -> None:
    units = packing.make_units(lengths, BUDGET)
    count = min(3, len(units))
    parts = packing.split_minibatches(units, count, seed)
    assert parts == packing.split_minibatches(units, count, seed)
    assert len(parts) == count and all(parts)
    assert sorted(m for part in parts for unit in part for m in unit.members) == list(range(len(lengths)))


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60))
def test_attention_padding_is_bounded(lengths: list[int]) -> None:
    groups = packing.attention_buckets(lengths)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        area = max(lengths[i] for i in group) * len(group)
        assert area - sum(lengths[i] for i in group) <= packing.ATTENTION_WASTE * area


@settings(max_examples=200)
@given(batches(), st.booleans())
def test_layout_rebuilds_every_sequence_from_its_rows(lengths: list[Lengths], share: bool) -> None:
    """Give every row a token; each sequence's attention rows must spell its prompt and response, in order."""
    for bin_ in packing.first_fit_decreasing(packing.make_units(lengths, BUDGET, share), BUDGET):
        rows = packing.lay_out(bin_, lengths)
        tokens: list[tuple[object, int]] = [("", -1)] * rows.rows
        for member, start in zip(rows.prompt_member, rows.prompt_start, strict=True):
            for i in range(lengths[member].prompt_tokens):
                tokens[start + i] = (("prompt", lengths[member].prompt), i)
        for member, start in zip(rows.members, rows.response_row_start, strict=True):
            for i in range(lengths[member].response_tokens - 1):
                tokens[start + i] = (("response", member), lengths[member].prompt_tokens + i)
        assert [position for _, position in tokens] == rows.positions_N.tolist()
        flat = np.concatenate([bucket.rows_BS.flatten() for bucket in rows.buckets])
        assert flat[rows.inverse_N].tolist() == list(range(rows.rows))
        for index, member in enumerate(rows.members):
            predicting = rows.response_rows_T[rows.response_start[index] : rows.response_start[index + 1]]
            expected = [lengths[member].prompt_tokens - 1 + i for i in range(lengths[member].response_tokens)]
            assert [tokens[row][1] for row in predicting] == expected
            sequence = [(("prompt", lengths[member].prompt), i) for i in range(lengths[member].prompt_tokens)]
            sequence += [(("response", member), len(sequence) + i) for i in range(lengths[member].response_tokens - 1)]
            lines = [line for bucket in rows.buckets for line in bucket.rows_BS]
            assert any([tokens[row] for row in line[: len(sequence)]] == sequence for line in lines)


def test_prompts_count_once_for_all_their_samples() -> None:
    lengths = [Lengths(0, 30, 5)] * 8
    assert [unit.rows for unit in packing.make_units(lengths, 128)] == [30 + 8 * 4]
    assert sum(unit.rows for unit in packing.make_units(lengths, 128, share=False)) == 8 * 34


def test_a_sequence_over_the_budget_is_named() -> None:
    with pytest.raises(PackingError, match=r"sequence 1 takes 69 rows, more than micro_batch_tokens=64"):
        packing.make_units([Lengths(0, 3, 3), Lengths(1, 60, 10)], BUDGET)


def test_an_empty_response_is_refused() -> None:
    with pytest.raises(PackingError, match="sequence 0 has 3 prompt and 0 response tokens"):
        packing.make_units([Lengths(0, 3, 0)], BUDGET)


def test_more_minibatches_than_prompts_are_refused() -> None:
    with pytest.raises(PackingError, match=r"lower ppo\.minibatches"):
        packing.split_minibatches([Unit((0,), 3)], 2, 0)
