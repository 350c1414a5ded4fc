"""Mixed batches: shares by tokens, whole epochs, plans that can be prolonged."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.datasets import token_mixed_batches

SOURCES = st.dictionaries(
    st.sampled_from(["text", "talk", "audio", "think"]),
    st.tuples(st.lists(st.integers(1, 60), min_size=1, max_size=30), st.floats(0.05, 4.0)),
    min_size=1,
)


@given(sources=SOURCES, batch=st.integers(1, 16), seed=st.integers(0, 2**31))
@settings(max_examples=100, deadline=None)
def test_token_shares_approach_the_weights(sources: dict[str, tuple[list[int], float]], batch: int, seed: int) -> None:
    lengths = {name: items for name, (items, _) in sources.items()}
    weights = {name: weight for name, (_, weight) in sources.items()}
    used: Counter[str] = Counter(dict.fromkeys(lengths, 0))
    for step in token_mixed_batches(lengths, weights, batch=batch, steps=60, seed=seed):
        assert len(step) == batch
        for name, index in step:
            used[name] += lengths[name][index]
        clocks = [used[name] / weights[name] for name in lengths]
        assert max(clocks) - min(clocks) <= max(max(lengths[n]) / weights[n] for n in lengths) + 1e-6


def test_shares_are_those_of_the_weights_over_many_steps() -> None:
    lengths = {"short": [3, 5, 4], "long": [90, 70, 110], "never": [1]}
    weights = {"short": 1.0, "long": 3.0, "never": 0.0}
    used: Counter[str] = Counter()
    for step in token_mixed_batches(lengths, weights, batch=16, steps=300, seed=3):
        for name, index in step:
            used[name] += lengths[name][index]
    assert used["long"] / used.total() == pytest.approx(0.75, abs=0.01)
    assert used["never"] == 0


@given(sources=SOURCES, batch=st.integers(1, 8), seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_within_an_epoch_of_a_source_no_index_comes_twice(
    sources: dict[str, tuple[list[int], float]], batch: int, seed: int
) -> None:
    lengths = {name: items for name, (items, _) in sources.items()}
    weights = {name: weight for name, (_, weight) in sources.items()}
    plan = token_mixed_batches(lengths, weights, batch=batch, steps=40, seed=seed)
    for name, items in lengths.items():
        drawn = [index for step in plan for source, index in step if source == name]
        for start in range(0, len(drawn), len(items)):
            epoch = drawn[start : start + len(items)]
            assert len(set(epoch)) == len(epoch) and set(epoch) <= set(range(len(items)))


@given(sources=SOURCES, batch=st.integers(1, 8), seed=st.integers(0, 1000), cut=st.integers(0, 30))
@settings(max_examples=60, deadline=None)
def test_a_shorter_plan_is_the_beginning_of_a_longer_one(
    sources: dict[str, tuple[list[int], float]], batch: int, seed: int, cut: int
) -> None:
    lengths = {name: items for name, (items, _) in sources.items()}
    weights = {name: weight for name, (_, weight) in sources.items()}
    long = token_mixed_batches(lengths, weights, batch=batch, steps=30, seed=seed)
    assert token_mixed_batches(lengths, weights, batch=batch, steps=cut, seed=seed) == long[:cut]


def test_the_order_of_the_sources_does_not_matter_and_seeds_do() -> None:
    lengths, weights = {"a": [1] * 50, "b": [2] * 50}, {"a": 1.0, "b": 1.0}
    first = token_mixed_batches(lengths, weights, batch=8, steps=5, seed=1)
    turned = token_mixed_batches(dict(reversed(lengths.items())), weights, batch=8, steps=5, seed=1)
    assert first == turned
    assert first != token_mixed_batches(lengths, weights, batch=8, steps=5, seed=2)
    epochs = [i for step in token_mixed_batches({"a": [1] * 20}, {"a": 1}, batch=20, steps=2, seed=1) for _, i in step]
    assert epochs[:20] != epochs[20:]


@pytest.mark.parametrize(
    ("lengths", "weights", "word"),
    [
        ({"a": [1]}, {"a": 1.0, "b": 1.0}, "weights name b; the sources are a"),
        ({"a": [1], "b": [1]}, {"a": 1.0}, "no weight for b"),
        ({"a": [1]}, {"a": -1.0}, "a=-1.0"),
        ({"a": [1]}, {"a": float("nan")}, "a=nan"),
        ({"a": [1]}, {"a": 0.0}, "all weights are 0"),
        ({}, {}, "all weights are 0"),
        ({"a": []}, {"a": 1.0}, "no items"),
        ({"a": [3, 0]}, {"a": 1.0}, "without tokens"),
    ],
)
def test_sources_and_weights_that_make_no_sense_are_refused(
    lengths: dict[str, list[int]], weights: dict[str, float], word: str
) -> None:
    with pytest.raises(ValueError, match=word):
        token_mixed_batches(lengths, weights, batch=2, steps=1, seed=0)


def test_an_empty_source_of_weight_0_is_left_out() -> None:
    assert token_mixed_batches({"a": [1], "b": []}, {"a": 1, "b": 0}, batch=2, steps=1, seed=0) == [[("a", 0)] * 2]
