"""What is wrong with a reference answer, found before anything runs.

Neighbours: `orchestrator.datasets` checks every line of a data set with it; the reward functions raise for the same faults.
Invariants: pure and quick (nothing is parsed by sympy); a reference without faults here can be scored, but for mathematics
that looks whole and is not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rewards.functions.choice import options_of
from rewards.functions.elements import elements
from rewards.functions.mathematics import DELIMITER
from rewards.functions.transcript import spoken_words
from rewards.functions.units import reference_quantity
from rollout.messages import AnswerKind

ESCAPED = re.compile(r"\\.", re.DOTALL)
LATEX = re.compile(r"\\[a-zA-Z]")


def reference_faults(kind: str, answer: str, choices: Sequence[str] = ()) -> list[str]:
    """Faults of a reference that is not blank, for its answer kind; [] when it can be used. choices: as in Question."""
    match AnswerKind(kind):
        case AnswerKind.CHOICE:
            return _choice_faults(answer, choices)
        case AnswerKind.NUMBER:
            return _number_faults(answer)
        case AnswerKind.TRANSCRIPT:
            return [] if spoken_words(answer) else [f"answer {answer!r} has no words to be transcribed"]
        case AnswerKind.SET | AnswerKind.LIST:
            return [] if elements(answer) else [f"answer {answer!r} names no element; write them as 'dog, violin'"]
        case AnswerKind.MATH:
            return _math_faults(answer)
        case _:
            return []


def _choice_faults(answer: str, choices: Sequence[str]) -> list[str]:
    if len(choices) < 2:
        return ["a choice question needs two choices or more"]
    faults = [] if answer in choices else [f"answer {answer!r} is not among the choices {list(choices)}"]
    if len(set(choices)) == len(choices):  # the same text twice is its own fault
        try:
            options_of(tuple(choices))
        except ValueError as error:
            faults.append(f"no reply could tell the choices apart: {error}")
    return faults


def _number_faults(answer: str) -> list[str]:
    try:
        reference_quantity(answer)
    except ValueError:
        return [f"answer {answer!r} is not a number, nor one number with a unit such as '440 Hz'"]
    return []


def _math_faults(answer: str) -> list[str]:
    """Delimiters that don't close, and text without any mathematics."""
    bare = ESCAPED.sub("", answer)
    faults = []
    if bare.count("{") != bare.count("}"):
        faults.append(f"answer {answer!r} has braces that don't close")
    if bare.count("$") % 2:
        faults.append(f"answer {answer!r} has a dollar sign without a partner")
    has_word = re.search(r"[^\W\d_]{2,}", answer) is not None
    if has_word and not (re.search(r"\d", answer) or DELIMITER.search(answer) or LATEX.search(answer)):
        faults.append(f"answer {answer!r} is a word, no mathematics; use answer_kind exact, or \\text{{…}} in dollars")
    return faults
