"""The golden cases that ship with the rewards for reasoning hold."""

from __future__ import annotations

from pathlib import Path

import pytest

import rewards.functions
from rewards.golden import GoldenCase, load_cases
from rewards.registry import get

FOLDER = Path(rewards.functions.__file__).parent / "golden"
NAMES = (
    "think_present", "think_length", "format", "repetition", "language", "grounding", "consistency", "self_cognition",
)  # fmt: skip
CASES = [(name, case) for name in NAMES for case in load_cases(FOLDER / f"{name}.jsonl")]


def outcome(name: str, case: GoldenCase) -> tuple[float | None, str]:
    """Score, or the reason for none, as a scoring process would have it."""
    function = get(name)
    try:
        value = function.call(case.sample, **function.bind(case.parameters))
    except ValueError as error:
        return None, str(error)
    return (value["score"] if isinstance(value, dict) else value), ""


@pytest.mark.parametrize(("name", "case"), CASES, ids=[f"{name}: {case.name}" for name, case in CASES])
def test_golden_case_of_a_reward_for_reasoning_holds(name: str, case: GoldenCase) -> None:
    score, reason = outcome(name, case)
    assert case.holds(score, reason), f"wanted {case.wanted}, got {score} {reason}: {case.sample.text}"


@pytest.mark.parametrize("name", NAMES)
def test_every_reward_for_reasoning_has_a_dozen_cases_and_both_outcomes(name: str) -> None:
    cases = [case for owner, case in CASES if owner == name]
    scores = {outcome(name, case)[0] for case in cases} - {None}
    assert len(cases) >= (60 if name == "self_cognition" else 12)
    assert 1.0 in scores and any(score < 1.0 for score in scores if score is not None)
