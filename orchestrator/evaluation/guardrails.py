"""Guardrails written as comparisons: `greedy >= 0.5`, `self_cognition_error <= 0.05`, `greedy >= champion - 0.02`.

Neighbours: `promotion` applies them; the configuration's `pipeline.promotion.guardrails` and `mgrd model promote --guardrail` give the
texts. Invariant: pure; a text that
is no comparison is refused with an example.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from orchestrator.errors import ConfigError
from orchestrator.evaluation.promotion import Guardrail

COMPARISON = re.compile(
    r"^\s*(?P<metric>[\w./-]+)\s*(?P<sign>>=|<=)\s*(?:(?P<champion>champion)\s*(?:(?P<side>[+-])\s*(?P<gap>\d*\.?\d+))?|(?P<number>-?\d*\.?\d+))\s*$"
)


def parse_guardrails(texts: Sequence[str]) -> list[Guardrail]:
    """In the order given. Raises ConfigError for a text that is none."""
    return [_parse(text) for text in texts]


def _parse(text: str) -> Guardrail:
    found = COMPARISON.match(text)
    if found is None:
        raise ConfigError(
            f"{text!r} is no guardrail; write `metric >= number`, `metric <= number` or `metric >= champion - number`"
        )
    metric, above = found["metric"], found["sign"] == ">="
    if not found["champion"]:
        number = float(found["number"])
        return Guardrail(metric, at_least=number) if above else Guardrail(metric, at_most=number)
    if found["side"] and (found["side"] == "-") != above:
        raise ConfigError(
            f"{text!r} asks for more than the champion has; write `{metric} >= champion - gap` or `{metric} <= champion + gap`"
        )
    return Guardrail(metric, within=float(found["gap"] or 0.0), lower_is_better=not above)
