"""Intervals cover what they should, pass@k is the combinatorial one, and longer thinking is compared within a question."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.evaluation.outcomes import Outcome
from orchestrator.evaluation.statistics import (
    accuracy,
    accuracy_by,
    length_bins,
    length_distribution,
    longer_against_shorter,
    mean,
    pass_at,
    pass_at_k,
    ratio,
)

SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=30)


def outcome(question: str, value: float | None = 1.0, tokens: int = 5, **over) -> Outcome:
    fields = {"task": "word", "domain": "speech", "dataset": "d", "thinks": tokens > 0, "finished": True} | over
    return Outcome(question_id=question, value=value, think_tokens=tokens, response_tokens=tokens + 4, **fields)


@given(SHARES, st.integers(0, 1000))
def test_an_interval_holds_its_figure_and_stays_within_the_values(values: list[float], seed: int) -> None:
    estimate = mean(values, seed=seed, resamples=200)
    assert min(values) - 1e-9 <= estimate.low <= estimate.value <= estimate.high <= max(values) + 1e-9
    assert estimate.value == pytest.approx(sum(values) / len(values))
    assert estimate.questions == len(values)


@given(SHARES, st.integers(0, 50))
def test_the_same_seed_gives_the_same_interval(values: list[float], seed: int) -> None:
    assert mean(values, seed=seed, resamples=200) == mean(values, seed=seed, resamples=200)


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(3)
    covered = 0
    for trial in range(300):
        estimate = mean(rng.binomial(1, 0.6, 80).astype(float).tolist(), seed=trial, resamples=400)
        covered += estimate.low <= 0.6 <= estimate.high
    assert 0.90 <= covered / 300 <= 0.98


def test_an_interval_is_as_wide_as_the_normal_one_on_many_questions():
    values = [1.0, 0.0] * 500
    estimate = mean(values, seed=1)
    assert (estimate.high - estimate.low) / 2 == pytest.approx(1.96 * 0.5 / math.sqrt(1000), rel=0.1)


def test_no_questions_give_nan_and_a_question_without_a_whole_is_left_out():
    assert math.isnan(mean([]).value) and mean([]).questions == 0
    assert ratio([1.0, 5.0], [2.0, 0.0]).value == 0.5
    assert ratio([1.0, 5.0], [2.0, 0.0]).questions == 1
    with pytest.raises(ValueError, match="one of each"):
        ratio([1.0], [])


@given(st.integers(1, 9), st.data())
def test_pass_at_k_is_the_share_of_draws_with_a_right_sample(samples: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, samples))
    k = data.draw(st.integers(1, samples))
    draws = list(itertools.combinations([True] * right + [False] * (samples - right), k))
    assert pass_at_k(samples, right, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_at_one_is_accuracy_and_pass_at_n_asks_for_one_right_sample():
    outcomes = [outcome("a", v) for v in (1, 0, 0, 0)] + [outcome("b", v) for v in (0, 0, 0, 0)]
    assert pass_at(outcomes, 1).value == pytest.approx(accuracy(outcomes).value) == pytest.approx(0.125)
    assert pass_at(outcomes, 4).value == 0.5


@pytest.mark.parametrize(("samples", "right", "k"), [(4, 5, 1), (4, -1, 1), (4, 2, 5), (4, 2, 0)])
def test_a_senseless_pass_at_k_is_refused(samples: int, right: int, k: int) -> None:
    with pytest.raises(ValueError, match="makes no sense"):
        pass_at_k(samples, right, k)


def test_a_question_without_enough_valid_samples_is_left_out_of_pass_at_k():
    outcomes = [outcome("a", 1), outcome("a", 0), outcome("b", 0), outcome("b", None)]
    assert pass_at(outcomes, 2).questions == 1


def test_an_invalid_sample_is_left_out_and_never_wrong():
    outcomes = [outcome("a", 1), outcome("a", None), outcome("b", None)]
    assert accuracy(outcomes).value == 1.0
    assert accuracy(outcomes).questions == 1


def test_accuracy_by_task_counts_each_question_once_whatever_its_samples():
    outcomes = [outcome("a", 1, task="word"), *[outcome("b", 0, task="word")] * 3, outcome("c", 1, task="order")]
    by_task = accuracy_by(outcomes, lambda o: o.task)
    assert list(by_task) == ["order", "word"]
    assert by_task["word"].value == 0.5


def test_harder_questions_thought_about_longer_do_not_look_like_harm_within_a_question():
    """Across questions longer is worse here; within each of them it makes no difference."""
    easy = [outcome(f"easy{i}", 1.0, tokens) for i in range(20) for tokens in (5, 6)]
    hard = [outcome(f"hard{i}", 0.0, tokens) for i in range(20) for tokens in (50, 60)]
    bins = length_bins(easy + hard, bins=2)
    assert [b.accuracy.value for b in bins] == [1.0, 0.0]
    effect = longer_against_shorter(easy + hard)
    assert effect.difference.value == 0.0
    assert effect.verdict == "no clear effect"
    assert effect.pairs == 40


def test_longer_samples_that_are_right_more_often_help():
    outcomes = [outcome(f"q{i}", float(tokens > 5 or i % 4 == 0), tokens) for i in range(20) for tokens in (3, 9)]
    effect = longer_against_shorter(outcomes)
    assert effect.difference.value == pytest.approx(0.75)
    assert effect.verdict == "helps"
    assert (effect.longer_better, effect.shorter_better) == (15, 0)


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from((0.0, 1.0)), st.integers(0, 6)), max_size=30))
def test_turning_lengths_round_turns_the_effect_round(rows: list[tuple[int, float, int]]) -> None:
    ahead = longer_against_shorter([outcome(f"q{q}", value, tokens) for q, value, tokens in rows])
    behind = longer_against_shorter([outcome(f"q{q}", value, 6 - tokens) for q, value, tokens in rows])
    assert ahead.pairs == behind.pairs
    assert (ahead.longer_better, ahead.shorter_better) == (behind.shorter_better, behind.longer_better)
    if ahead.pairs:
        assert ahead.difference.value == pytest.approx(-behind.difference.value)


def test_samples_cut_at_the_limit_do_not_count_as_long_and_wrong_unless_asked_for():
    outcomes = [o for i in range(9) for o in (outcome(f"q{i}", 1, 5), outcome(f"q{i}", 0, 48, finished=False))]
    assert longer_against_shorter(outcomes).pairs == 0
    assert longer_against_shorter(outcomes, finished_only=False).verdict == "hurts"


def test_thinking_against_not_thinking_can_be_left_out_of_the_comparison():
    outcomes = [o for i in range(9) for o in (outcome(f"q{i}", 1, 0), outcome(f"q{i}", 0, 5), outcome(f"q{i}", 0, 9))]
    assert longer_against_shorter(outcomes).verdict == "hurts"
    among = longer_against_shorter(outcomes, thinking_only=True)
    assert among.pairs == 9 and among.difference.value == 0.0


@given(st.lists(st.integers(0, 40), min_size=1, max_size=60), st.integers(1, 6))
def test_length_bins_hold_every_sample_once_and_do_not_overlap(lengths: list[int], bins: int) -> None:
    made = length_bins([outcome(f"q{i}", 1.0, tokens) for i, tokens in enumerate(lengths)], bins=bins)
    assert sum(b.samples for b in made) == len(lengths)
    assert len(made) <= bins
    assert all(one.longest < two.shortest for one, two in itertools.pairwise(made))


@given(st.lists(st.integers(0, 2000), min_size=1, max_size=50))
def test_a_length_distribution_counts_every_sample(lengths: list[int]) -> None:
    found = length_distribution(lengths)
    assert sum(found.counts) == len(lengths) == found.samples
    assert found.mean == pytest.approx(sum(lengths) / len(lengths))
    assert found.empty == pytest.approx(lengths.count(0) / len(lengths))
    assert found.quantiles["min"] == min(lengths) and found.quantiles["max"] == max(lengths)
