"""The golden cases of the answer functions hold, and each file shows right, wrong and invalid ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import rewards.functions
from rewards.functions.answer import answer, check_answer
from rewards.functions.mathematics import math
from rewards.golden import GoldenCase, load_cases

FOLDER = Path(rewards.functions.__file__).parent / "golden"
FUNCTIONS = {"answer": answer, "math": math}
CASES = [(name, case) for name in FUNCTIONS for case in load_cases(FOLDER / f"{name}.jsonl")]


@pytest.mark.parametrize(("name", "case"), CASES, ids=[f"{name}: {case.name}" for name, case in CASES])
def test_a_golden_case_holds(name: str, case: GoldenCase) -> None:
    score, reason = None, ""
    try:
        score = FUNCTIONS[name](case.sample, **case.parameters)
    except ValueError as error:
        reason = str(error)
    assert case.holds(score, reason), f"wanted {case.wanted}, got {score} {reason}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_cases_of_a_function_are_at_least_twelve_of_all_sorts(name: str) -> None:
    cases = [case for of, case in CASES if of == name]
    assert len(cases) >= 12
    assert {case.high > 0.5 if case.high is not None else None for case in cases} == {True, False, None}


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"by": "colour"}, "either"),
        ({"rules": "mmlu"}, "mmar"),
        ({"rules": "mmau", "by": "letter"}, "know no letters"),
        ({"max_error_rate": -0.1}, "rate of 0 or more"),
        ({"max_error_rate": float("nan")}, "rate of 0 or more"),
        ({"partial": "yes"}, "true or false"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        check_answer(**({"by": "either", "rules": "ours", "max_error_rate": None, "partial": False} | changes))
