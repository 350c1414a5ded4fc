"""Packing: every sequence once, no micro-batch over budget, shared prompts, balanced ranks, bounded attention padding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actor import balance, packing
from actor.balance import Cost, Lengths, PackingError, Unit
from actor.packing import PackedRows

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
    units = balance.make_units(lengths, BUDGET, share)
    assert sorted(m for unit in units for m in unit.members) == list(range(len(lengths)))
    for unit in units:
        assert unit.rows == rows_of(lengths, unit) <= BUDGET
        assert len({lengths[m].prompt for m in unit.members}) == 1
        assert share or len(unit.members) == 1


@settings(deadline=None)
@given(batches())
def test_micro_batches_stay_in_budget_and_no_two_could_be_one(lengths: list[Lengths]) -> None:
    units = balance.make_units(lengths, BUDGET)
    bins = balance.first_fit_decreasing(units, BUDGET)
    loads = [sum(unit.rows for unit in bin_) for bin_ in bins]
    assert sorted(m for bin_ in bins for unit in bin_ for m in unit.members) == list(range(len(lengths)))
    assert max(loads) <= BUDGET
    assert all(a + b > BUDGET for i, a in enumerate(loads) for b in loads[i + 1 :])


@settings(deadline=None)
@given(batches(), st.integers(0, 5))
def test_minibatches_split_all_sequences_the_same_way_for_a_seed(lengths: list[Lengths], seed: int) -> None:
    units = balance.make_units(lengths, BUDGET)
    count = min(3, len(units))
    parts = balance.split_minibatches(units, count, seed)
    assert parts == balance.split_minibatches(units, count, seed)
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


def visible(rows: PackedRows, ranks: int = 1) -> list[list[int]]:
    """Key rows that each packed row's output depends on, in order; asserts that every row is a query once, on one rank."""
    shares = packing.context_rows(rows.rows, ranks)
    gathered = np.concatenate(shares)
    seen: dict[int, list[int]] = {}
    for rank in range(ranks):
        own = packing.rank_rows(rows, rank, ranks)
        flat: list[list[int]] = []
        for call in own.calls:
            for line in range(len(call.query_rows_BQ)):
                for i in range(call.query_rows_BQ.shape[1]):
                    keys = gathered[call.key_rows_BK[line]]
                    flat.append((keys[: i + 1] if call.mask_BQK is None else keys[call.mask_BQK[line, i]]).tolist())
        assert all(flat)
        assert len(set(own.inverse_n.tolist())) == len(own.rows_n)
        for row, place in zip(own.rows_n.tolist(), own.inverse_n.tolist(), strict=True):
            assert row not in seen
            seen[row] = flat[place]
    return [seen[row] for row in range(rows.rows)]


@settings(max_examples=100, deadline=None)
@given(batches(), st.booleans(), st.integers(1, 4), st.sampled_from([1, 2]))
def test_every_row_sees_its_own_sequence_up_to_itself_and_nothing_else(
    lengths: list[Lengths], share: bool, ranks: int, split: int
) -> None:
    """On any number of context-parallel ranks; `split` asks for more filling rows, as sequence parallel does."""
    for bin_ in balance.first_fit_decreasing(balance.make_units(lengths, BUDGET, share), BUDGET):
        rows = packing.lay_out(bin_, lengths, 2 * ranks * split if ranks > 1 else split)
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
        filled = sum(unit.rows for unit in bin_)
        expected |= {row: list(range(filled, row + 1)) for row in range(filled, rows.rows)}
        assert rows.rows - filled < 2 * ranks * split
        assert visible(rows, ranks) == [expected[row] for row in range(rows.rows)]


@settings(max_examples=100, deadline=None)
@given(batches(), st.integers(1, 4))
def test_every_response_token_is_predicted_on_the_rank_that_runs_its_row(lengths: list[Lengths], ranks: int) -> None:
    for bin_ in balance.first_fit_decreasing(balance.make_units(lengths, BUDGET), BUDGET):
        rows = packing.lay_out(bin_, lengths, 2 * ranks)
        shares = [packing.rank_rows(rows, rank, ranks) for rank in range(ranks)]
        assert len({len(share.rows_n) for share in shares}) == 1
        predicted = np.concatenate([share.rows_n[share.head_rows_K] for share in shares])
        token = np.concatenate([share.head_tokens_K for share in shares])
        for share in shares:
            assert predicted[share.order_T].tolist() == rows.response_rows_T.tolist()
            assert token[share.order_T].tolist() == list(range(len(rows.response_rows_T)))


def test_rows_that_do_not_divide_over_the_ranks_are_refused() -> None:
    with pytest.raises(ValueError, match="10 rows do not divide into 2 x 2 pieces"):
        packing.context_rows(10, 2)


def test_prompts_count_once_for_all_their_samples() -> None:
    lengths = [Lengths(0, 30, 5)] * 8
    assert [unit.rows for unit in balance.make_units(lengths, 128)] == [30 + 8 * 4]
    assert sum(unit.rows for unit in balance.make_units(lengths, 128, share=False)) == 8 * 34


def test_a_sequence_over_the_budget_is_named() -> None:
    with pytest.raises(PackingError, match=r"sequence 1 takes 69 rows, more than micro_batch_tokens=64"):
        balance.make_units([Lengths(0, 3, 3), Lengths(1, 60, 10)], BUDGET)


def test_an_empty_response_is_refused() -> None:
    with pytest.raises(PackingError, match="sequence 0 has 3 prompt and 0 response tokens"):
        balance.make_units([Lengths(0, 3, 0)], BUDGET)


def test_more_minibatches_than_prompts_are_refused() -> None:
    with pytest.raises(PackingError, match=r"lower ppo\.minibatches"):
        balance.split_minibatches([Unit((0,), 3)], 2, 0)


def cost_of(share: list[list[Unit]], cost: Cost) -> float:
    return sum(cost(unit) for bin_ in share for unit in bin_)


@settings(deadline=None)
@given(batches(), st.integers(1, 6), st.booleans(), st.sampled_from([Cost(), Cost(pair=0.02, response=0.5)]))
def test_a_plan_places_every_sequence_once_and_keeps_the_budget(
    lengths: list[Lengths], ranks: int, share: bool, cost: Cost
) -> None:
    planned = balance.plan(balance.make_units(lengths, BUDGET, share), lengths, ranks, BUDGET, cost)
    assert len(planned) == ranks
    bins = [bin_ for shares in planned for bin_ in shares]
    assert sorted(m for bin_ in bins for unit in bin_ for m in unit.members) == list(range(len(lengths)))
    for bin_ in bins:
        assert bin_ and sum(unit.rows for unit in bin_) <= BUDGET
        assert all(unit.rows == rows_of(lengths, unit) for unit in bin_)


@settings(deadline=None)
@given(batches(), st.integers(1, 6))
def test_ranks_of_a_plan_are_level_to_within_a_unit(lengths: list[Lengths], ranks: int) -> None:
    units = balance.make_units(lengths, BUDGET)
    costs = [cost_of(share, balance.ROWS) for share in balance.plan(units, lengths, ranks, BUDGET)]
    assert max(costs) - min(costs) <= max(unit.rows for unit in units)


@settings(deadline=None)
@given(batches(), st.integers(1, 6))
def test_a_plan_is_the_same_on_every_rank(lengths: list[Lengths], ranks: int) -> None:
    first, second = (
        balance.plan(balance.make_units(list(lengths), BUDGET), list(lengths), ranks, BUDGET) for _ in range(2)
    )
    assert first == second


def test_the_last_micro_batch_is_not_a_rest() -> None:
    """Ten units that fill three and a third micro-batches become four even ones, not three full ones and a small one."""
    lengths = [Lengths(i, 10, 11) for i in range(10)]
    share = balance.plan(balance.make_units(lengths, BUDGET), lengths, 1, BUDGET)[0]
    rows = sorted(sum(unit.rows for unit in bin_) for bin_ in share)
    assert rows == [40, 40, 60, 60]


def test_a_lone_prompt_is_shared_out_when_its_answers_cost_more_than_its_rows() -> None:
    lengths = [Lengths(0, 4, 21)] * 2
    assert [len(share) for share in balance.plan(balance.make_units(lengths, BUDGET), lengths, 2, BUDGET)] == [1, 1]


def test_attention_and_head_count_as_the_decoder_runs_them() -> None:
    """Two layers of hidden 4, 6 numbers of queries and 2 of keys, feed-forward 8, vocabulary 10: multiply-adds by hand."""
    cost = Cost.of_decoder(layers=2, hidden=4, attention=6, key_value=2, ffn=8, vocabulary=10)
    row = 2 * (4 * 6 + 4 * 2 + 4 * 2 + 6 * 4 + 3 * 4 * 8)
    assert cost.pair == pytest.approx(2 * (6 + 6) / row)
    assert cost.response == pytest.approx(4 * 10 / row)
