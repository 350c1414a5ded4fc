"""A line of a data set is refused when its answer can't be used for its answer kind."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.datasets.schema import check_record


def line(kind: str, answer: str, **changes: Any) -> dict[str, Any]:
    return {"id": "q", "prompt": "?", "answer": answer, "answer_kind": kind} | changes


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("number", "1.2 kHz"),
        ("number", "-6"),
        ("transcript", "Turn it off."),
        ("set", "dog, owl"),
        ("math", r"\frac{1}{2}"),
    ],
)
def test_answers_of_every_kind_pass(kind: str, answer: str) -> None:
    assert check_record(line(kind, answer)) == []


@pytest.mark.parametrize(
    ("record", "word"),
    [
        (line("number", "3 or 4"), "not a number"),
        (line("number", "1e999"), "not a number"),
        (line("transcript", "?!"), "no words"),
        (line("set", ", ,"), "no element"),
        (line("list", ";"), "no element"),
        (line("math", r"\frac{1}{"), "braces that don't close"),
        (line("math", "many"), "no mathematics"),
        (line("choice", "dog", choices=["dog", "a dog"]), "tell the choices apart"),
    ],
)
def test_an_answer_that_can_not_be_used_is_one_fault(record: dict[str, Any], word: str) -> None:
    faults = check_record(record)
    assert len(faults) == 1
    assert word in faults[0]
