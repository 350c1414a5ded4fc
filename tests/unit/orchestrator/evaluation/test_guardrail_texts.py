"""Guardrails written as comparisons mean what they say."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.errors import ConfigError
from orchestrator.evaluation.guardrails import parse_guardrails
from orchestrator.evaluation.promotion import Guardrail


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("greedy >= 0.5", Guardrail("greedy", at_least=0.5)),
        ("self_cognition_error<=.05", Guardrail("self_cognition_error", at_most=0.05)),
        ("curve/-1/greedy >= champion - 0.02", Guardrail("curve/-1/greedy", within=0.02)),
        ("error <= champion + 0.01", Guardrail("error", within=0.01, lower_is_better=True)),
        ("greedy >= champion", Guardrail("greedy", within=0.0)),
        ("gain >= -0.1", Guardrail("gain", at_least=-0.1)),
    ],
)
def test_a_comparison_becomes_a_guardrail(text: str, meant: Guardrail) -> None:
    assert parse_guardrails([text]) == [meant]


@pytest.mark.parametrize("text", ["greedy", "greedy > 0.5", ">= 0.5", "greedy >= best", "greedy >= champion + 0.1", ""])
def test_what_is_no_guardrail_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_guardrails([text])


@pytest.mark.parametrize(
    ("options", "said"), [([], "at least one guardrail"), (["--guardrail", "greedy/value = 0.5"], "is no guardrail")]
)
def test_the_command_refuses_what_is_no_guardrail_before_it_starts_anything(options: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["model", "promote", "mgrd-demo", "3", "--report", "none.json", *options])
    assert result.exit_code == 2 and said in " ".join(result.output.split())
