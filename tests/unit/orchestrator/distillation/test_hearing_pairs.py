"""Pairs of one response that uses its hearing and one that denies it."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scored_responses import response

from orchestrator.distillation.pairs import MinedPair, PairError, error_rate, false_or_empty, merge_earlier, mine_pairs
from orchestrator.stages.scoring import Scored

HEARS = "<think>\n\n</think>\nI hear a flute."  # what the truth of `response` holds
FALSE, EMPTY = "<think>\n\n</think>\nI hear a dog.", "<think>\n\n</think>\nA flute."
SAYS = (FALSE, EMPTY, HEARS)
DENIES = "<think>\n\n</think>\nI cannot hear audio."


def sample(number: int, *, denies: bool, question: str = "q", **more: Any) -> Scored:
    fields: dict[str, Any] = {"components": {"self_cognition": float(not denies)}} | more
    text = fields.pop("text", DENIES if denies else HEARS)
    return response(number, text, question=question, **fields)


ROW = st.tuples(st.booleans(), st.booleans(), st.integers(1, 6), st.integers(0, 2))


def group_of(question: str, rows: list[tuple[bool, bool, int, int]]) -> list[Scored]:
    return [
        sample(
            i,
            denies=denies,
            question=question,
            invalid=invalid,
            ids=(9, token),
            text=DENIES if denies else SAYS[says],
        )
        for i, (denies, invalid, token, says) in enumerate(rows)
    ]


GROUPS = st.lists(st.lists(ROW, min_size=1, max_size=8), max_size=6).map(
    lambda groups: [group_of(f"q{i}", rows) for i, rows in enumerate(groups)]
)
MOST, SEED = st.integers(1, 4), st.integers(0, 5)


def keys(pairs: list[MinedPair]) -> list[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    return [(p.question_id, p.chosen_ids, p.rejected_ids) for p in pairs]


@settings(deadline=None)
@given(GROUPS, MOST, SEED)
def test_every_pair_has_a_good_and_a_bad_side_and_no_pair_comes_twice(
    groups: list[list[Scored]], most: int, seed: int
) -> None:
    pairs = mine_pairs(groups, model="t2", max_per_question=most, seed=seed)
    by_id = {item.trajectory.id: item for group in groups for item in group}
    for pair in pairs:
        good, bad = by_id[pair.chosen.trajectory_id], by_id[pair.rejected.trajectory_id]
        assert good.verdict.components["self_cognition"] == 1.0 and bad.verdict.components["self_cognition"] == 0.0
        assert good.verdict.valid and bad.verdict.valid and good.trajectory.text == HEARS
        assert good.question.id == bad.question.id == pair.question_id
        assert pair.chosen_ids == good.trajectory.response_ids and pair.rejected_ids == bad.trajectory.response_ids
        assert pair.prompt_ids == good.trajectory.prompt_ids == bad.trajectory.prompt_ids
        assert (pair.chosen.model, pair.rejected.model, pair.chosen.weights_version) == ("t2", "t2", 3)
        assert MinedPair.from_json(pair.to_json()) == pair
    assert len(set(keys(pairs))) == len(pairs)
    had = Counter(pair.question_id for pair in pairs)
    for group in groups:
        good_ids = {i.trajectory.response_ids for i in group if i.verdict.valid and i.trajectory.text == HEARS}
        bad_ids = {
            i.trajectory.response_ids for i in group if i.verdict.valid and not i.verdict.components["self_cognition"]
        }
        possible = max(len(good_ids), len(bad_ids)) if good_ids and bad_ids else 0
        assert had[group[0].question.id] == min(most, possible)


@settings(deadline=None)
@given(GROUPS, MOST, SEED, SEED)
def test_pairs_do_not_depend_on_the_order_of_the_samples(
    groups: list[list[Scored]], most: int, seed: int, shuffle: int
) -> None:
    mixed = [list(group) for group in groups]
    for group in mixed:
        random.Random(shuffle).shuffle(group)
    one, other = (mine_pairs(g, model="t2", max_per_question=most, seed=seed) for g in (groups, mixed))
    assert keys(one) == keys(other)


def test_a_good_side_states_something_and_nothing_false_in_reasoning_and_reply() -> None:
    texts = [
        HEARS,
        FALSE,
        EMPTY,
        "<think>\nI hear a dog.\n</think>\nI hear a flute.",
        "<think>\nI hear a flute.\n</think>\nYes.",
        "<think>\n\n</think>\nI hear a flute, then a dog.",
    ]
    group = [sample(9, denies=True), *(sample(i, denies=False, text=text) for i, text in enumerate(texts))]
    for seed in range(5):
        pairs = mine_pairs([group], model="t2", max_per_question=9, seed=seed)
        assert {pair.chosen.trajectory_id for pair in pairs} == {"t/q/0", "t/q/4"}
    assert false_or_empty([group, group]) == 8
    unknown = [sample(9, denies=True, truth=False), sample(1, denies=False, text=FALSE, truth=False)]
    assert len(mine_pairs([unknown], model="t2", max_per_question=9, seed=0)) == 1
    assert false_or_empty([unknown]) == 0


def test_every_question_has_its_first_pair_before_any_has_its_second() -> None:
    groups = [
        [sample(0, denies=False, question=q), sample(1, denies=True, question=q), sample(2, denies=True, question=q)]
        for q in "abc"
    ]
    pairs = mine_pairs(groups, model="t2", max_per_question=2, seed=3)
    assert [pair.question_id for pair in pairs] == ["a", "b", "c", "a", "b", "c"]
    assert len(set(keys(pairs))) == 6


@pytest.mark.parametrize("wrong", [{"finished": False}, {"invalid": True}])
def test_a_broken_response_is_no_good_side(wrong: dict[str, Any]) -> None:
    group = [sample(0, denies=True), sample(1, denies=False, **wrong)]
    assert mine_pairs([group], model="t2", max_per_question=1, seed=0) == []


def test_a_response_without_form_or_reply_is_no_good_side() -> None:
    for text in ("A flute.", "<think>\nA low tone.\n</think>\n"):
        group = [sample(0, denies=True), response(1, text)]
        assert mine_pairs([group], model="t2", max_per_question=1, seed=0) == []


def test_a_well_formed_denial_is_preferred_to_one_that_lost_its_form() -> None:
    bare = response(1, "I cannot hear audio.", components={"self_cognition": 0.0})
    group = [sample(0, denies=False), bare, sample(2, denies=True)]
    for seed in range(8):
        (pair,) = mine_pairs([group], model="t2", max_per_question=1, seed=seed)
        assert pair.rejected.trajectory_id == "t/q/2"
    (pair,) = mine_pairs([group[:2]], model="t2", max_per_question=1, seed=0)
    assert pair.rejected.trajectory_id == "t/q/1"


def test_a_verdict_without_the_component_says_which_reward_is_missing() -> None:
    item = response(0)
    item.verdict.components.pop("self_cognition")
    with pytest.raises(PairError, match="add the reward self_cognition"):
        mine_pairs([[item]], model="t2", max_per_question=1, seed=0)
    with pytest.raises(PairError, match="self_cognition"):
        error_rate([[item]])


@settings(deadline=None)
@given(GROUPS, GROUPS, GROUPS, st.integers(0, 20), MOST, SEED)
def test_filling_up_keeps_what_there_is_and_stops_at_what_is_needed(
    groups: list[list[Scored]],
    second: list[list[Scored]],
    first: list[list[Scored]],
    needed: int,
    most: int,
    seed: int,
) -> None:
    pairs = mine_pairs(groups, model="t2", max_per_question=most, seed=seed)
    merged = merge_earlier(
        pairs, groups, {"t1": second, "cold_start": first}, needed=needed, model="t2", max_per_question=most, seed=seed
    )
    assert list(merged.pairs[: len(pairs)]) == pairs
    assert len(merged.pairs) <= max(needed, len(pairs))
    assert sum(merged.pairs_from.values()) == len(merged.pairs)
    assert merged.pairs_from == Counter(pair.rejected.model for pair in merged.pairs)
    assert all(pair.chosen.model == "t2" for pair in merged.pairs)
    assert len(set(keys(list(merged.pairs)))) == len(merged.pairs)
    assert max(Counter(pair.question_id for pair in merged.pairs).values(), default=0) <= most
    again = merge_earlier(
        pairs, groups, {"t1": second, "cold_start": first}, needed=needed, model="t2", max_per_question=most, seed=seed
    )
    assert again == merged


def test_bad_sides_come_from_the_newest_checkpoint_that_still_denies() -> None:
    now = [[sample(0, denies=False, question=q)] for q in ("a", "b", "c")]
    then = [[sample(1, denies=q == "a", question=q, version=2, ids=(5, 5))] for q in ("a", "b", "c")]
    start = [[sample(2, denies=True, question=q, version=0, ids=(6, 6))] for q in ("a", "b", "c", "d")]
    pairs = mine_pairs(now, model="t2", max_per_question=1, seed=0)
    assert pairs == []
    merged = merge_earlier(
        pairs, now, {"t1": then, "cold_start": start}, needed=9, model="t2", max_per_question=1, seed=0
    )
    assert merged.pairs_from == {"t1": 1, "cold_start": 2}
    assert {(p.question_id, p.rejected.model, p.rejected.weights_version) for p in merged.pairs} == {
        ("a", "t1", 2),
        ("b", "cold_start", 0),
        ("c", "cold_start", 0),
    }
    few = merge_earlier(pairs, now, {"cold_start": start}, needed=2, model="t2", max_per_question=5, seed=0)
    assert len(few.pairs) == 2


def test_questions_without_a_pair_are_filled_before_others_get_a_second() -> None:
    now = [
        [sample(0, denies=False, question="a"), sample(1, denies=True, question="a")],
        [sample(2, denies=False, question="b")],
    ]
    start = [[sample(10 + i, denies=True, question=q) for i in range(3)] for q in ("a", "b")]
    for seed in range(6):
        pairs = mine_pairs(now, model="t2", max_per_question=3, seed=seed)
        merged = merge_earlier(pairs, now, {"cold_start": start}, needed=2, model="t2", max_per_question=3, seed=seed)
        assert [pair.question_id for pair in merged.pairs] == ["a", "b"]


def test_another_prompt_cannot_be_paired_and_is_counted() -> None:
    now = [[sample(0, denies=False)]]
    start = [[sample(1, denies=True, prompt=(1, 2, 3))]]
    merged = merge_earlier([], now, {"cold_start": start}, needed=1, model="t2", max_per_question=1, seed=0)
    assert (merged.pairs, merged.pairs_from, merged.other_prompt) == ((), {}, 1)


def test_error_rate_is_a_mean_over_questions_without_invalid_responses() -> None:
    groups = [
        [sample(0, denies=True), sample(1, denies=False), sample(2, denies=True, invalid=True)],
        [sample(0, denies=False, question="p")],
        [sample(0, denies=True, question="r", invalid=True)],
    ]
    share, error = error_rate(groups)
    assert share == 0.25 and error == pytest.approx(0.25)
    none, zero = error_rate([])
    assert math.isnan(none) and zero == 0.0


@settings(deadline=None)
@given(GROUPS)
def test_error_rate_lies_in_zero_to_one(groups: list[list[Scored]]) -> None:
    share, error = error_rate(groups)
    assert math.isnan(share) or (0.0 <= share <= 1.0 and 0.0 <= error <= 0.5 + 1e-9)
