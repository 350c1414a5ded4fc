"""Duplicates, chains a question, chains a task: caps hold, order stays, nothing depends on chance."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scored_responses import response

from orchestrator.distillation.caps import TaskBalance, at_most_a_question, balance_tasks, task_cap
from orchestrator.distillation.dedupe import dedupe, said, similarity
from orchestrator.errors import ConfigError
from orchestrator.stages.scoring import Scored

WORDS = ["A low tone.", "a low  tone", "A high tone.", "Two beats, then silence.", "It is 440 Hz.", "It is 441 Hz."]
SEED = st.integers(0, 5)


def items_of(rows: list[tuple[int, int, int]]) -> list[Scored]:
    return [
        response(i, f"<think>\n{WORDS[w]}\n</think>\nfirst", question=f"q{q}", task=f"task{q % 3 if t else 0}{q}"[:5])
        for i, (q, w, t) in enumerate(rows)
    ]


ITEMS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, len(WORDS) - 1), st.integers(0, 1)), max_size=30).map(
    items_of
)
COUNTS = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 60), max_size=6)
BALANCE = st.builds(
    TaskBalance, st.none() | st.floats(0.05, 1.0), st.none() | st.floats(1.0, 6.0), st.sampled_from([0, 0, 3])
)


def subsequence(part: list[Scored], whole: list[Scored]) -> bool:
    rest = iter(whole)
    return all(any(item is other for other in rest) for item in part)


@settings(deadline=None)
@given(ITEMS, st.sampled_from([1.0, 0.95, 0.6]))
def test_one_of_each_stays_in_order_and_every_drop_is_named(items: list[Scored], near: float) -> None:
    found = dedupe(items, near)
    assert subsequence(list(found.kept), items)
    assert len(found.kept) + len(found.dropped) == len(items)
    assert not {i.trajectory.id for i in found.kept} & set(found.dropped)
    assert {i.question.id for i in found.kept} == {i.question.id for i in items}
    by_question: dict[str, list[str]] = {}
    for item in found.kept:
        others = by_question.setdefault(item.question.id, [])
        assert said(item) not in others
        assert near == 1.0 or all(similarity(said(item), other) < near for other in others)
        others.append(said(item))
    assert dedupe(found.kept, near).kept == found.kept


def test_case_articles_and_spacing_make_no_difference_but_the_reply_does() -> None:
    same = [
        response(0, "<think>\nA low tone.\n</think>\nfirst"),
        response(1, "<think>\nthe  LOW tone\n</think>\nFirst."),
        response(2, "<think>\nA low tone.\n</think>\nsecond"),
    ]
    found = dedupe(same)
    assert [item.trajectory.sample for item in found.kept] == [0, 2]
    assert found.dropped == {"t/q/1": "duplicate"}


def test_near_duplicates_go_only_below_the_threshold_and_within_a_question() -> None:
    one, other = (
        "<think>\nNote 1 is about 440 Hz.\n</think>\nfirst",
        "<think>\nNote 1 is about 441 Hz.\n</think>\nfirst",
    )
    assert dedupe([response(0, one), response(1, other)], 0.9).dropped == {"t/q/1": "near_duplicate"}
    assert dedupe([response(0, one), response(1, other)], 0.999).dropped == {}
    assert dedupe([response(0, one), response(1, other, question="p")], 0.9).dropped == {}
    as_alike = similarity(said(response(0, one)), said(response(1, other)))
    assert dedupe([response(0, one), response(1, other)], as_alike).dropped == {"t/q/1": "near_duplicate"}
    with pytest.raises(ConfigError, match="97"):
        dedupe([], 97)


@settings(deadline=None)
@given(ITEMS, st.integers(1, 4), SEED, SEED)
def test_at_most_so_many_a_question_whatever_the_order(items: list[Scored], most: int, seed: int, shuffle: int) -> None:
    kept = at_most_a_question(items, most, seed)
    assert subsequence(kept, items)
    had, has = (Counter(i.question.id for i in group) for group in (items, kept))
    assert has == Counter({question: min(count, most) for question, count in had.items()})
    mixed = list(items)
    random.Random(shuffle).shuffle(mixed)
    assert {i.trajectory.id for i in at_most_a_question(mixed, most, seed)} == {i.trajectory.id for i in kept}


def test_different_chains_are_preferred_to_similar_ones() -> None:
    texts = ["A low tone.", "A low tone!", "A low toll.", "Two beats, then a long silence."]
    items = [response(i, f"<think>\n{text}\n</think>\nfirst") for i, text in enumerate(texts)]
    for seed in range(10):
        assert items[3] in at_most_a_question(items, 2, seed)


def test_the_seed_decides_who_stays() -> None:
    items = [response(i, question=f"q{i // 4}") for i in range(40)]
    drawn = {tuple(i.trajectory.id for i in at_most_a_question(items, 1, seed)) for seed in range(5)}
    assert len(drawn) == 5


@settings(deadline=None)
@given(COUNTS, BALANCE)
def test_the_cap_is_the_largest_that_meets_both_limits(counts: dict[str, int], balance: TaskBalance) -> None:
    cap = task_cap(counts, balance)
    present = [count for count in counts.values() if count]

    def fits(limit: int) -> bool:
        left = [min(count, limit) for count in present]
        share = balance.max_share is None or max(left) <= balance.max_share * sum(left) * (1 + 1e-12)
        ratio = balance.max_ratio is None or max(left) <= balance.max_ratio * min(present)
        return ratio and (share or limit <= min(present))

    if not present:
        assert cap == 0
        return
    fitting = [limit for limit in range(1, max(present) + 1) if fits(limit)]
    assert cap == max(*fitting, balance.at_least)


@settings(deadline=None)
@given(ITEMS, BALANCE, SEED, SEED)
def test_no_task_is_over_its_cap_and_none_below_loses_anything(
    items: list[Scored], balance: TaskBalance, seed: int, shuffle: int
) -> None:
    kept = balance_tasks(items, balance, seed)
    assert subsequence(kept, items)
    had, has = (Counter(i.question.task for i in group) for group in (items, kept))
    cap = task_cap(had, balance)
    assert has == Counter({task: min(count, cap) for task, count in had.items()})
    mixed = list(items)
    random.Random(shuffle).shuffle(mixed)
    again = balance_tasks(mixed, balance, seed)
    questions = Counter(i.question.id for i in kept)
    assert Counter(i.question.task for i in again) == has
    assert {i.trajectory.id for i in again} == {i.trajectory.id for i in kept} and sum(questions.values()) == len(kept)


def test_a_task_over_its_cap_keeps_a_chain_of_every_question_before_a_second_of_any() -> None:
    items = [response(i, question=f"q{i % 5}", task="word") for i in range(20)]
    items += [response(100 + i, question=f"p{i}", task="count") for i in range(5)]
    kept = balance_tasks(items, TaskBalance(max_ratio=1.0), 3)
    assert Counter(i.question.id for i in kept if i.question.task == "word") == {f"q{i}": 1 for i in range(5)}


def test_figures_of_an_unbalanced_distillation_are_evened_out() -> None:
    counts = {"source": 51, "word": 45, "instrument": 39, "tempo": 16, "order": 10, "count": 0}
    assert task_cap(counts, TaskBalance()) == 51
    assert task_cap(counts, TaskBalance(max_ratio=3.0)) == 30
    assert task_cap(counts, TaskBalance(max_ratio=3.0, at_least=40)) == 40
    cap = task_cap(counts, TaskBalance(max_share=0.25))
    assert cap == 26 and 26 <= 0.25 * (26 * 3 + 16 + 10) < 27


def test_a_share_that_few_tasks_cannot_reach_is_met_as_closely_as_can_be() -> None:
    assert task_cap({"a": 9, "b": 4}, TaskBalance(max_share=0.2)) == 4
    assert task_cap({"a": 9}, TaskBalance(max_share=0.2)) == 9


@pytest.mark.parametrize("wrong", [{"max_share": 0.0}, {"max_share": 2.0}, {"max_ratio": 0.5}, {"at_least": -1}])
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        TaskBalance(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        at_most_a_question([], 0, 1)
