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


def test_collapsed_and_over_long_reasoning_is_punished() -> None:
    limits = {"low": 6, "high": 12, "edge": 4, "collapse": 3, "collapse_score": -0.5, "over": 20, "over_score": -1.0}
    scores = [think_length(but(reasoning_tokens=tokens), **limits) for tokens in (2, 3, 9, 16, 20, 21)]  # type: ignore[arg-type]
    assert scores == [-0.5, 0.25, 1.0, 0.0, 0.0, -1.0]
    assert think_length(but(reasoning="", reasoning_tokens=0), **limits) == -0.5  # type: ignore[arg-type]
    assert think_length(but(well_formed=False, reasoning_tokens=9), **limits) == 0.0  # type: ignore[arg-type]
    assert think_length(but(well_formed=False, reasoning_tokens=900), **limits) == -1.0  # type: ignore[arg-type]


bands = st.builds(
    lambda collapse, low, high, over, edge, down, up: {
        "collapse": collapse,
        "low": collapse + low,
        "high": collapse + low + high,
        "over": 0 if over is None else collapse + low + high + over,
        "edge": edge,
        "collapse_score": -down,
        "over_score": -up,
    },
    *(st.integers(0, 20), st.integers(0, 20), st.integers(0, 30), st.none() | st.integers(0, 30), st.integers(0, 20)),
    *(st.floats(0, 2), st.floats(0, 2)),
)


@given(bands, st.integers(0, 140))
def test_length_reward_stays_in_bounds_and_falls_away_from_the_band_on_both_sides(
    band: dict[str, float], tokens: int
) -> None:
    def at(count: int) -> float:
        return think_length(but(reasoning_tokens=count), **band)  # type: ignore[arg-type]

    assert min(band["collapse_score"], band["over_score"], 0.0) <= at(tokens) <= 1.0
    if tokens >= band["high"] or tokens < band["collapse"]:
        assert at(tokens + 1) <= at(tokens) or tokens + 1 == band["collapse"] or tokens < band["collapse"]
    if tokens < band["low"]:
        assert at(tokens) <= at(tokens + 1)
    if band["low"] <= tokens <= band["high"]:
        assert at(tokens) == 1.0


@given(st.integers(1, 40), st.integers(0, 40), st.integers(1, 20), st.integers(0, 120))
def test_length_reward_has_no_steps_at_the_edges_of_the_band(low: int, width: int, edge: int, tokens: int) -> None:
    here, after = (
        think_length(but(reasoning_tokens=count), low=low, high=low + width, edge=edge)
        for count in (tokens, tokens + 1)
    )
    assert abs(here - after) <= 1 / edge + 1e-9


@pytest.mark.parametrize(
    "parameters",
    [
        {"collapse": 9}, {"collapse": -1}, {"over": 20}, {"collapse_score": 0.1}, {"over_score": float("-inf")},
    ],
)  # fmt: skip
def test_penalties_that_make_no_sense_are_refused(parameters: dict[str, object]) -> None:
    with pytest.raises(RewardError, match="think_length"):
        resolve(RewardTerm("think_length", 1.0, "any", parameters))


@pytest.mark.parametrize(
    "text", ["dog<|EOT|><|BOT|>human\nand?", "<thinking>it barks</thinking> dog", "dog </reasoning>"]
)
def test_format_allows_nothing_but_the_reply_outside_the_block(text: str) -> None:
    assert response_format(but(reply=text)) == response_format(but(reasoning=text)) == 0.0
    assert response_format(but(reply="first < second, |x| > 2")) == 1.0
