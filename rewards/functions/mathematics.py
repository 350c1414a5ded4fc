"""Is the reply mathematically equal to the reference? math-verify's judgement, with a cheap exact match before it.

Neighbours: `answer` sends questions of kind math here; the sandbox ends a comparison that does not return.
Invariants: where math-verify answers, this is its answer (`tests/parity/test_math_verify.py`); a reference that can't be parsed
raises (an invalid verdict), a reply that can't is wrong; math-verify and sympy are imported when they are first needed;
math-verify's own alarms stay off, since they don't stop code in C.
"""

from __future__ import annotations

import logging
import re
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

from rewards.messages import Sample
from rewards.registry import reward

DELIMITER = re.compile(r"\$|\\\(|\\\[|\\boxed")
PLAIN = re.compile(r"[-+*/^().,%\d\s]+")  # read by math-verify without delimiters
WORDS = re.compile(r"\\(?:text|mathrm|textbf|mathbf|operatorname)\s*\{[^{}]*\}|\\[a-zA-Z]+|[^\W\d_]{2,}")
# Exact values that are the same for math-verify if and only if they are equal: it compares six decimals, and 15 digits.
NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,8})(?:\.\d{1,5})?")
RATIO = re.compile(
    r"(?P<sign>-?)(?:\\[dt]?frac\{(?P<top>\d{1,5})\}\{(?P<bottom>[1-9]\d{0,4})\}|(?P<ratio>\d{1,5}/[1-9]\d{0,4}))"
)

# One piece of mathematics in text that holds no other number: whichever pattern of math-verify finds it, it finds this.
LEAD = r"[^\\${}\[\]\d]*"
TAIL = r"[\s.!]*"
NESTED = r"(?:[^{}$]|\{(?:[^{}$]|\{[^{}$]*\})*\})+"
BOXED = rf"\\boxed\{{(?P<boxed>{NESTED})\}}"
ONE_PIECE = re.compile(
    rf"{LEAD}(?P<core>\${BOXED}\$|\\\[\s*{BOXED.replace('boxed>', 'display>')}\s*\\\]|{BOXED.replace('boxed>', 'bare>')}"
    rf"|\$(?P<dollar>[^$\n]+)\$){TAIL}"
)


class Reading(NamedTuple):
    """A text as it is given to math-verify, and its one piece of mathematics ("" when it has none or several)."""

    text: str
    piece: str


def read(text: str) -> Reading:
    """Bare LaTeX gets delimiters, words around a single piece go."""
    text = text.strip()
    if DELIMITER.search(text) is None:
        if PLAIN.fullmatch(text):
            return Reading(text, text if _value(text) is not None else "")
        if not text or "\n" in text or not _is_bare(text):
            return Reading(text, "")
        return Reading(f"${text}$", text)
    match = ONE_PIECE.fullmatch(text)
    if match is None:
        return Reading(text, "")
    piece = next(value for name, value in match.groupdict().items() if name != "core" and value is not None)
    if not piece.strip() or "\\boxed" in piece:
        return Reading(text, "")
    return Reading(match["core"], piece)


def _is_bare(text: str) -> bool:
    """Mathematics without delimiters: no word outside a text command."""
    return all(match.group().startswith("\\") for match in WORDS.finditer(text))


def _value(piece: str) -> Fraction | None:
    """The value of a plain number or a ratio of whole numbers; None for anything else."""
    if NUMBER.fullmatch(piece):
        return Fraction(piece)
    match = RATIO.fullmatch(piece)
    if match is None:
        return None
    return Fraction(match["sign"] + (match["ratio"] or f"{match['top']}/{match['bottom']}"))


def is_equal(reply: str, reference: str) -> bool:
    """Raises ValueError when math-verify can't parse the reference."""
    wanted, said = read(reference), read(reply)
    right, value = _value(wanted.piece), _value(said.piece)
    pieces = wanted.piece + said.piece
    rounded = "." in pieces and ("/" in pieces or "\\" in pieces)  # 0.333333 equals 1/3
    if right is not None and value is not None and not rounded:
        return value == right
    _parsed_reference(wanted.text)  # also where the texts are the same: a bad reference is not a right answer
    if said.piece and said.piece == wanted.piece:
        return True
    return _verified(wanted.text, said.text)


@lru_cache(maxsize=1024)  # the samples of one question share its reference
def _parsed_reference(text: str) -> list[Any]:
    parsed = _parse(text)
    if not any(_is_comparable(expression) for expression in parsed):
        raise ValueError(
            f"the reference {text!r} can't be parsed as mathematics; write it in LaTeX, or give the question another answer_kind"
        )
    return parsed


def _is_comparable(expression: Any) -> bool:
    """Neither unparsed text, nor without a value, such as 1/0."""
    from sympy import nan, zoo

    return not isinstance(expression, str) and expression not in (nan, zoo)


@lru_cache(maxsize=4096)  # and often their replies are the same
def _verified(reference: str, reply: str) -> bool:
    from math_verify import verify

    said = _parse(reply)
    return bool(said) and bool(verify(_parsed_reference(reference), said, timeout_seconds=None))


def _parse(text: str) -> list[Any]:
    from math_verify import parse

    for name in ("math_verify.parser", "math_verify.grader"):  # they warn of having no time limit; the sandbox has one
        logging.getLogger(name).setLevel(logging.ERROR)
    return parse(text, parsing_timeout=None)


def prepare_scoring() -> None:
    """Imports math-verify and builds its tables, about half a second of CPU time, before the first sample is on the clock."""
    is_equal("1+x", "x+1")


@reward("math")
def math(sample: Sample) -> float:
    """1.0 when the reply equals the reference, else 0.0. Raises ValueError when the reference can't be parsed."""
    return float(is_equal(sample.reply, sample.reference))
