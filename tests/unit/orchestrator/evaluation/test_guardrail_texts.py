"""Guardrails as people write them."""

import pytest

from orchestrator.config.compose import compose_config
from orchestrator.errors import ConfigError
from orchestrator.evaluation.guardrails import parse_guardrails
from orchestrator.evaluation.promotion import Guardrail, violations


@pytest.mark.parametrize(
    ("text", "rail"),
    [
        ("greedy >= 0.5", Guardrail("greedy", at_least=0.5)),
        ("self_cognition_error<=.05", Guardrail("self_cognition_error", at_most=0.05)),
        ("greedy >= champion - 0.02", Guardrail("greedy", within=0.02)),
        ("greedy >= champion", Guardrail("greedy", within=0.0)),
        ("error <= champion + 0.01", Guardrail("error", within=0.01, lower_is_better=True)),
    ],
)
def test_a_comparison_becomes_a_guardrail(text, rail):
    assert parse_guardrails([text]) == [rail]


@pytest.mark.parametrize(
    "text", ["greedy", "greedy > 0.5", "greedy >= champion + 0.1", "error <= champion - 0.1", ">= 3"]
)
def test_anything_else_is_refused(text):
    with pytest.raises(ConfigError):
        parse_guardrails([text])
    with pytest.raises(ConfigError, match=r"guardrail|champion"):
        compose_config(["experiment=mgrd_tiny", f"pipeline.promotion.guardrails=['{text}']"])


def test_the_shipped_guardrails_hold_a_good_model_and_stop_a_worse_one():
    rails = parse_guardrails(compose_config(["experiment=mgrd_tiny"]).pipeline.promotion.guardrails)
    best = {"greedy": 0.85, "true_perceptions": 0.8, "self_cognition_error": 0.01}
    assert violations(best, rails, None) == []
    assert violations({**best, "greedy": 0.84}, rails, best) == []
    worse = {"greedy": 0.8, "true_perceptions": 0.7, "self_cognition_error": 0.2}
    assert [v.metric for v in violations(worse, rails, best)] == ["greedy", "true_perceptions", "self_cognition_error"]
