"""Draws problems: arithmetic, unit conversion, ordering, small algebra.

Neighbours: `reasoning` works a problem out, `verify` answers it again from its words, `build` collects them. Invariants: pure,
drawn by the generator that is given; numbers are whole, above 0 and at most `Difficulty.largest`; two problems with the same `key`
ask the same thing (3 + 4 and 4 + 3 do).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from orchestrator.datasets.text_reasoning.difficulty import Difficulty
from rollout.messages import AnswerKind


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem without id and split; truth: its parameters; key: what makes it this problem and no other."""

    family: str
    prompt: str
    answer: str
    answer_kind: AnswerKind
    truth: dict[str, Any]
    key: tuple[Any, ...]
    choices: tuple[str, ...] = field(default=())


# (large unit, small unit, how many small ones make a large one)
UNITS = (
    ("weeks", "days", 7),
    ("days", "hours", 24),
    ("hours", "minutes", 60),
    ("minutes", "seconds", 60),
    ("years", "months", 12),
    ("yards", "feet", 3),
    ("feet", "inches", 12),
    ("centimeters", "millimeters", 10),
    ("meters", "centimeters", 100),
    ("kilometers", "meters", 1000),
    ("gallons", "quarts", 4),
    ("quarts", "pints", 2),
    ("pounds", "ounces", 16),
    ("dimes", "cents", 10),
    ("nickels", "cents", 5),
    ("kilohertz", "hertz", 1000),
)
NAMES = ("Ann", "Ben", "Eva", "Ida", "Leo", "Max", "Mia", "Tom")
# (more, most, less, least)
RELATIONS = (
    ("taller", "tallest", "shorter", "shortest"),
    ("older", "oldest", "younger", "youngest"),
    ("faster", "fastest", "slower", "slowest"),
)
ASKED_NUMBERS = ("largest", "smallest", "order")


def arithmetic(rng: random.Random, difficulty: Difficulty) -> Problem:
    sign = rng.choice("+-*")
    if sign == "*":
        a = rng.randint(1, difficulty.factor)
        b = rng.randint(1, min(difficulty.factor, difficulty.largest // a))
        result = a * b
    else:
        whole = rng.randint(2, difficulty.largest)
        part = rng.randint(1, whole - 1)
        a, b, result = (part, whole - part, whole) if sign == "+" else (whole, part, whole - part)
    key = (sign, a, b) if sign == "-" else (sign, *sorted((a, b)))
    truth = {"a": a, "sign": sign, "b": b}
    return Problem("arithmetic", f"What is {a} {sign} {b}?", str(result), AnswerKind.NUMBER, truth, key)


def units(rng: random.Random, difficulty: Difficulty) -> Problem:
    large, small, factor = rng.choice([unit for unit in UNITS if unit[2] * 2 <= difficulty.largest])
    count = rng.randint(2, difficulty.largest // factor)
    total = count * factor
    # a "rest" of one would need the singular
    rests = [rest for rest in range(2, factor) if total + rest <= difficulty.largest]
    if rng.random() < 0.25:
        truth = {"given": total, "unit": small, "rest": 0, "wanted": large, "factor": factor}
        downward = (large, small, "down", total)
        return Problem(
            "units", f"How many {large} are {total} {small}?", str(count), AnswerKind.NUMBER, truth, downward
        )
    rest = rng.choice(rests) if rests and rng.random() < 0.8 else 0
    truth = {"given": count, "unit": large, "rest": rest, "wanted": small, "factor": factor}
    more = f" and {rest} {small}" if rest else ""
    upward = (large, small, "up", count, rest)
    prompt = f"How many {small} are {count} {large}{more}?"
    return Problem("units", prompt, str(total + rest), AnswerKind.NUMBER, truth, upward)


def ordering(rng: random.Random, difficulty: Difficulty) -> Problem:
    return _people(rng, difficulty) if rng.random() < 0.5 else _numbers(rng, difficulty)


def _numbers(rng: random.Random, difficulty: Difficulty) -> Problem:
    numbers = rng.sample(range(1, difficulty.largest + 1), difficulty.numbers)
    asked = rng.choice(ASKED_NUMBERS)
    truth = {"numbers": numbers, "asked": asked}
    key = ("numbers", asked, *sorted(numbers))
    listed = ", ".join(map(str, numbers))
    if asked == "order":
        answer = ", ".join(map(str, sorted(numbers)))
        return Problem("ordering", f"Sort from small to large: {listed}.", answer, AnswerKind.LIST, truth, key)
    answer = str(max(numbers) if asked == "largest" else min(numbers))
    choices = tuple(map(str, numbers))
    return Problem("ordering", f"Which number is {asked}?", answer, AnswerKind.CHOICE, truth, key, choices)


def _people(rng: random.Random, difficulty: Difficulty) -> Problem:
    """People in a row, given by the statements about neighbours; the first is the most, the last the least."""
    row = rng.sample(NAMES, difficulty.people)
    more, most, less, least = rng.choice(RELATIONS)
    statements = [(one, more, other) for one, other in pairwise(row)]
    if difficulty.turned:
        statements = [(c, less, a) if rng.random() < 0.5 else (a, more, c) for a, _, c in statements]
        rng.shuffle(statements)
    asked = rng.choice((most, least))
    answer = row[0] if asked == most else row[-1]
    truth = {"row": row, "more": more, "asked": asked, "statements": [list(s) for s in statements]}
    told = " ".join(f"{one} is {word} than {other}." for one, word, other in statements)
    choices = tuple(sorted(row))
    key = ("people", asked, *row)
    return Problem("ordering", f"{told} Who is {asked}?", answer, AnswerKind.CHOICE, truth, key, choices)


def algebra(rng: random.Random, difficulty: Difficulty) -> Problem:
    """a x + b = c with one whole solution above 0; b may be 0 or negative, where the prompt has a minus."""
    form = rng.choice(("sum", "difference", "product", "both"))
    a, b = 1, 0
    if form in ("product", "both"):
        a = rng.randint(2, difficulty.factor)
    x = rng.randint(1, (difficulty.largest - (form == "both")) // a)
    if form in ("sum", "both"):
        x = min(x, (difficulty.largest - 1) // a)
        b = rng.randint(1, difficulty.largest - a * x)
    elif form == "difference":
        x = max(x, 2)
        b = -rng.randint(1, x - 1)
    c = a * x + b
    left = ("" if a == 1 else f"{a} ") + "x" + (f" {'+' if b > 0 else '-'} {abs(b)}" if b else "")
    truth = {"a": a, "b": b, "c": c}
    return Problem("algebra", f"{left} = {c}. What is x?", str(x), AnswerKind.MATH, truth, (a, b, c))


FAMILIES: Mapping[str, Callable[[random.Random, Difficulty], Problem]] = {
    "arithmetic": arithmetic,
    "units": units,
    "ordering": ordering,
    "algebra": algebra,
}
