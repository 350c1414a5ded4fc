"""Packing: every sequence once, no micro-batch over budget, shared prompts, balanced ranks, bounded attention padding."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actor import packing
from actor.packing import Lengths, PackedRows, PackingError, Unit

BUDGET = 64


@st.composite
def batches(draw: st.DrawFn) -> list[Lengths]:
    prompts = draw(st.lists(st.integers(1, 40), min_size=1, max_size=6))
    rows = draw(st.lists(st.tuples(st.integers(0, len(prompts) - 1), st.integers(1, 24)), min_size=1, max_size=30))
    return [Lengths(prompt, prompts[prompt], response) for prompt, response in rows]


def rows_of(lengths: list[Lengths], unit: Unit) -> int:
    return lengths[unit.members[0]].prompt_tokens + sum(lengths[m].response_tokens - 1 for m in unit.members)


@settings(deadline=None)
@given(batches(), st.booleans())
def test_units_hold_every_sequence_once_within_budget_and_one_prompt(lengths: list[Lengths], share: bool) -> None:
    units = packing.make_units(lengths, BUDGET, share)
    assert sorted(m for unit in units for m in unit.members) == list(range(len(lengths)))
    for unit in units:
        assert unit.rows == rows_of(lengths, unit) <= BUDGET
        assert len({lengths[m].prompt for m in unit.members}) == 1
        assert share or len(unit.members) == 1


@settings(deadline=None)
@given(batches(), st.integers(1, 5))
def test_ranks_differ_by_at_most_one_unit(lengths: list[Lengths], ranks: int) -> None:
    units = packing.make_units(lengths, BUDGET)
    shares = packing.balance(units, ranks)
    loads = [sum(unit.rows for unit in share) for share in shares]
    assert sorted(m for share in shares for unit in share for m in unit.members) == list(range(len(lengths)))
    assert max(loads) - min(loads) <= max(unit.rows for unit in units)


@settings(deadline=None)
@given(batches())
def test_micro_batches_stay_in_budget_and_no_two_could_be_one(lengths: list[Lengths]) -> None:
    units = packing.make_units(lengths, BUDGET)
    bins = packing.first_fit_decreasing(units, BUDGET)
    loads = [sum(unit.rows for unit in bin_) for bin_ in bins]
    assert sorted(m for bin_ in bins for unit in bin_ for m in unit.members) == list(range(len(lengths)))
    assert max(loads) <= BUDGET
    assert all(a + b > BUDGET for i, a in enumerate(loads) for b in loads[i + 1 :])


@settings(deadline=None)
@given(batches(), st.integers(0, 5))
def test_minibatches_split_all_sequences_the_same_way_for_a_seed(lengths: list[Lengths], seed: int) -> None:
    units = packing.make_units(lengths, BUDGET)
    count = min(3, len(units))
    parts = packing.split_minibatches(units, count, seed)
    assert parts == packing.split_minibatches(units, count, seed)
    assert len(parts) == count and all(parts)
    assert sorted(m for part in parts for unit in part for m in unit.members) == list(range(len(lengths)))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 300)), min_size=1, max_size=60))
def test_attention_padding_is_bounded(drawn: list[tuple[int, int]]) -> None:
    sizes = [(queries, queries + before) for queries, before in drawn]
    groups = packing.group_by_size(sizes)
    assert sorted(i for group in groups for i in group) == list(range(len(sizes)))
    for group in groups:
        area = max(sizes[i][0] for i in group) * max(sizes[i][1] for i in group) * len(group)
        assert area - sum(sizes[i][0] * sizes[i][1] for i in group) <= packing.ATTENTION_WASTE * area


def visible(rows: PackedRows) -> list[list[int]]:
    """Key rows that each packed row's output depends on, in order; asserts that every row is a query once."""
    flat: list[list[int]] = []
    for call in rows.calls:
        for line in range(len(call.query_rows_BQ)):
            for i in range(call.query_rows_BQ.shape[1]):
                keys = call.key_rows_BK[line]
                flat.append((keys[: i + 1] if call.mask_BQK is None else keys[call.mask_BQK[line, i]]).tolist())
    assert all(flat)
    assert len(set(rows.inverse_N.tolist())) == rows.rows
    return [flat[place] for place in rows.inverse_N]


@settings(max_examples=100, deadline=None)
@given(batches(), st.booleans())
def test_every_row_sees_its_own_sequence_up_to_itself_and_nothing_else(lengths: list[Lengths], share: bool) -> None:
    for bin_ in packing.first_fit_decreasing(packing.make_units(lengths, BUDGET, share), BUDGET):
        rows = packing.lay_out(bin_, lengths)
        expected: dict[int, list[int]] = {}
        starts = dict(zip(rows.prompt_member, rows.prompt_start, strict=True))
        prompt_of = {member: starts[unit.members[0]] for unit in bin_ for member in unit.members}
        for index, member in enumerate(rows.members):
            prompt = [prompt_of[member] + i for i in range(lengths[member].prompt_tokens)]
            own = [rows.response_row_start[index] + i for i in range(lengths[member].response_tokens - 1)]
            for i, row in enumerate(prompt + own):
                expected[row] = (prompt + own)[: i + 1]
                assert rows.positions_N[row] == i
            predicting = rows.response_rows_T[rows.response_start[index] : rows.response_start[index + 1]]
            assert predicting.tolist() == prompt[-1:] + own
        assert visible(rows) == [expected[row] for row in range(rows.rows)]


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
