"""Guardrails hold or say why not; nothing that is missing passes."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import ConfigError
from orchestrator.evaluation.guardrails import parse_guardrails
from orchestrator.evaluation.promotion import Guardrail, metric, violations

NUMBERS = st.floats(-10, 10)


def test_a_path_walks_through_objects_and_lists():
    report = {"curve": [{"greedy": 0.4}, {"greedy": 0.6}], "greedy": {"value": 0.5}, "name": "x", "ok": True}
    assert metric(report, "greedy/value") == 0.5
    assert metric(report, "curve/-1/greedy") == 0.6
    assert metric(report, "curve/0/greedy") == 0.4


@pytest.mark.parametrize(
    "path", ["gone", "curve/7/greedy", "name", "ok", "greedy", "curve", "curve/x", "nan", "name/0"]
)
def test_what_is_no_finite_number_is_none_and_a_violation(path: str) -> None:
    report: dict[str, Any] = {"curve": [], "greedy": {}, "name": "x", "ok": True, "nan": math.nan}
    assert metric(report, path) is None
    (found,) = violations(report, [Guardrail(path, at_least=-1e9)])
    assert found.value is None and path in str(found)


@given(NUMBERS, NUMBERS)
def test_fixed_bounds_include_their_ends(value: float, bound: float) -> None:
    report = {"m": value}
    assert bool(violations(report, [Guardrail("m", at_least=bound)])) == (value < bound)
    assert bool(violations(report, [Guardrail("m", at_most=bound)])) == (value > bound)


@given(NUMBERS, NUMBERS, st.floats(0, 5))
def test_relative_bounds_look_only_at_how_much_worse(value: float, best: float, within: float) -> None:
    higher = violations({"m": value}, [Guardrail("m", within=within)], {"m": best})
    lower = violations({"m": -value}, [Guardrail("m", within=within, lower_is_better=True)], {"m": -best})
    assert bool(higher) == bool(lower)
    if value >= best:
        assert not higher
    elif best - value > within + 1e-9:
        assert "worse than the champion" in str(higher[0])


def test_without_a_champion_relative_bounds_hold_and_fixed_ones_still_bind():
    rails = [Guardrail("m", at_least=0.5, within=0.0)]
    assert violations({"m": 0.6}, rails) == []
    assert len(violations({"m": 0.4}, rails)) == 1


def test_every_violation_is_found_not_only_the_first():
    rails = parse_guardrails(["greedy >= 0.5", "greedy >= champion - 0.01", "gone >= 0.1", "error <= 0.05"])
    found = violations({"greedy": 0.3, "error": 0.2}, rails, {"greedy": 0.6})
    assert [v.metric for v in found] == ["greedy", "greedy", "gone", "error"]


def test_a_metric_that_the_champions_report_lacks_is_a_violation():
    (found,) = violations({"greedy": {"value": 0.9}}, [Guardrail("greedy/value", within=0.1)], {"greedy": 0.1})
    assert found.value == 0.9 and "same kind of report" in str(found)


def test_an_error_may_not_rise_against_the_champion():
    (rail,) = parse_guardrails(["error <= champion + 0.02"])
    assert violations({"error": 0.1}, [rail], {"error": 0.05})
    assert not violations({"error": 0.01}, [rail], {"error": 0.05})


def test_a_guardrail_that_bounds_nothing_is_refused():
    with pytest.raises(ConfigError, match="bounds nothing"):
        Guardrail("m")
    with pytest.raises(ConfigError, match="0 or more"):
        Guardrail("m", within=-0.1)
    with pytest.raises(ConfigError, match="needs a metric"):
        Guardrail("", at_least=0.1)
