"""The pure part of the stages: balance, batches, selection."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.seeds import derive
from orchestrator.stages.plans import balanced, batches, histogram, keep_middling, mean_and_error

TASKS = st.lists(st.sampled_from(["word", "order", "count"]), min_size=1, max_size=60)


@given(TASKS, st.integers(0, 80), st.integers(0, 5))
def test_balanced_draws_each_item_at_most_once_and_tasks_differ_by_no_more_than_scarcity_forces(tasks, count, seed):
    chosen = balanced(tasks, count, seed)
    assert len(chosen) == len(set(chosen)) == min(count, len(tasks))
    drawn, available = Counter(tasks[i] for i in chosen), Counter(tasks)
    for task in available:
        if drawn[task] < available[task]:  # not exhausted: nobody has more than one extra
            assert max(drawn.values(), default=0) - drawn[task] <= 1


def test_balanced_depends_on_the_seed_and_on_nothing_else():
    tasks = ["a", "b"] * 20
    assert balanced(tasks, 10, 1) == balanced(tasks, 10, 1) != balanced(tasks, 10, 2)


@given(st.integers(1, 20), st.integers(1, 9), st.integers(0, 12), st.integers(0, 9))
def test_batches_use_every_item_equally_often_up_to_one(items, batch, steps, seed):
    plan = batches(items, batch, steps, seed)
    assert [len(b) for b in plan] == [batch] * steps
    used = Counter(i for b in plan for i in b)
    counts = [used[i] for i in range(items)]
    assert max(counts) - min(counts) <= 1


@given(st.dictionaries(st.text(min_size=1, max_size=4), st.integers(0, 8)))
def test_selection_keeps_exactly_the_middling_questions(counts):
    kept = keep_middling(counts, 3, 6)
    assert kept == sorted(kept)
    assert set(kept) == {name for name, count in counts.items() if count in (3, 4, 5, 6)}
    assert sum(histogram(counts, 8)) == len(counts)


def test_mean_and_error_agree_with_the_textbook():
    mean, error = mean_and_error([0.0, 1.0, 1.0, 0.0])
    assert mean == 0.5
    assert abs(error - (1 / 3) ** 0.5 / 2) < 1e-12


def test_derived_seeds_are_stable_distinct_and_fit_an_engine():
    seeds = {derive(11, "reinforce", u) for u in range(1000)}
    assert len(seeds) == 1000
    assert all(0 <= s < 2**31 for s in seeds)
    assert derive(11, "a", "b") != derive(11, "ab")
    assert derive(11, "evaluate") == derive(11, "evaluate") != derive(12, "evaluate")
