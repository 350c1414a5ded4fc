"""Rewards for the form of the reasoning."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards import RewardError, RewardTerm, Sample, get
from rewards.functions.think import response_format, think_length, think_present
from rewards.registry import resolve

GOOD = Sample(
    "t", {}, "", "I hear a dog.", "dog", well_formed=True, finished=True, response_tokens=20, reasoning_tokens=10
)


def but(**changes: object) -> Sample:
    return dataclasses.replace(GOOD, **changes)  # type: ignore[arg-type]


def test_thinking_is_present_when_a_closed_block_says_something() -> None:
    assert think_present(GOOD) == 1.0
    assert think_present(but(reasoning="")) == 0.0
    assert think_present(but(reasoning="...")) == 0.0
    assert think_present(but(well_formed=False)) == 0.0


def test_format_needs_one_block_a_reply_and_an_end() -> None:
    assert response_format(GOOD) == response_format(but(reasoning="")) == 1.0
    assert response_format(but(reply="")) == 0.0
    assert response_format(but(well_formed=False)) == 0.0
    assert response_format(but(finished=False)) == 0.0


@pytest.mark.parametrize(
    ("tokens", "score"), [(0, 0.0), (2, 0.0), (4, 0.5), (6, 1.0), (12, 1.0), (13, 0.75), (16, 0.0), (99, 0.0)]
)
def test_length_falls_off_softly_outside_the_band(tokens: int, score: float) -> None:
    assert think_length(but(reasoning_tokens=tokens), low=6, high=12, edge=4) == score


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 20), st.integers(0, 120))
def test_length_reward_is_one_inside_the_band_and_never_rises_away_from_it(
    low: int, width: int, edge: int, tokens: int
) -> None:
    high = low + width
    here = think_length(but(reasoning_tokens=tokens), low=low, high=high, edge=edge)
    further = think_length(but(reasoning_tokens=tokens + (1 if tokens >= high else -1)), low=low, high=high, edge=edge)
    assert 0.0 <= here <= 1.0
    if low <= tokens <= high:
        assert here == 1.0
    else:
        assert further <= here < 1.0


def test_length_of_absent_or_broken_reasoning_scores_nothing() -> None:
    assert think_length(but(reasoning="", reasoning_tokens=0), low=0, high=12) == 0.0
    assert think_length(but(well_formed=False), low=6, high=12) == 0.0


@pytest.mark.parametrize("parameters", [{"low": 9, "high": 3}, {"low": -1}, {"edge": -2}, {"width": 3}, {"low": "x"}])
def test_bad_parameters_are_refused_before_anything_is_scored(parameters: dict[str, object]) -> None:
    assert get("think_length").name == "think_length"
    with pytest.raises(RewardError, match="think_length"):
        resolve(RewardTerm("think_length", 1.0, "any", parameters))
