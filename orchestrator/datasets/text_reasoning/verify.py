"""Answers a text problem again, from its words alone: sympy for numbers, every possible order for people.

Neighbours: `build` and the tests hold each question to it. Invariants: pure; `Question.truth` is never looked at; of a prompt only
what matches a family's form is read.
"""

from __future__ import annotations

import re
from itertools import permutations

from rollout.messages import Question

ARITHMETIC = re.compile(r"What is (\d+ [-+*] \d+)\?")
ALGEBRA = re.compile(r"((?:\d+ )?x(?: [-+] \d+)?) = (\d+)\. What is x\?")
UNIT = re.compile(r"How many (\w+) are (\d+) (\w+)(?: and (\d+) (\w+))?\?")
SORT = re.compile(r"Sort from small to large: (\d+(?:, \d+)*)\.")
PICK = re.compile(r"Which number is (largest|smallest)\?")
PEOPLE = re.compile(r"((?:\w+ is \w+ than \w+\. )+)Who is (\w+)\?")
STATEMENT = re.compile(r"(\w+) is (\w+) than (\w+)\.")


def verified(question: Question) -> bool:
    """Whether the reference answer is the one and only answer, worked out from prompt and choices."""
    return answer_again(question) == question.answer


def answer_again(question: Question) -> str | None:
    """The answer as text; None for a prompt of no known form or without exactly one answer."""
    from sympy import Symbol, solve_linear, sympify

    prompt = question.prompt
    if match := ARITHMETIC.fullmatch(prompt):
        return str(sympify(match[1]))
    if match := ALGEBRA.fullmatch(prompt):
        x = Symbol("x", positive=True)
        left = sympify(re.sub(r"(\d) x", r"\1*x", match[1]), locals={"x": x})
        symbol, value = solve_linear(left, sympify(match[2]))
        return str(value) if symbol == x else None
    if match := UNIT.fullmatch(prompt):
        return _converted(match)
    if match := SORT.fullmatch(prompt):
        return ", ".join(sorted(match[1].split(", "), key=int))
    if match := PICK.fullmatch(prompt):
        best = (max if match[1] == "largest" else min)(map(int, question.choices))
        return str(best)
    if match := PEOPLE.fullmatch(prompt):
        return _person(match[1], match[2], question.choices)
    return None


def _converted(match: re.Match[str]) -> str | None:
    from sympy import Rational

    from orchestrator.datasets.text_reasoning.problems import UNITS

    wanted, given, unit, rest, rest_unit = match.groups()
    if rest and rest_unit != wanted:
        return None
    for large, small, factor in UNITS:
        if (wanted, unit) == (small, large):
            return str(Rational(given) * factor + Rational(rest or 0))
        if (wanted, unit) == (large, small):
            return str(Rational(given) / factor)
    return None


def _person(told: str, asked: str, people: tuple[str, ...]) -> str | None:
    """Whoever stands at the asked end in every order that agrees with all statements; None when that is not one person."""
    from orchestrator.datasets.text_reasoning.problems import RELATIONS

    more, most, less, least = next(words for words in RELATIONS if asked in words)
    pairs = []
    for one, word, other in STATEMENT.findall(told):
        if word not in (more, less):
            return None
        pairs.append((one, other) if word == more else (other, one))
    possible = {
        row[0] if asked == most else row[-1]
        for row in permutations(people)
        if all(row.index(before) < row.index(after) for before, after in pairs)
    }
    return possible.pop() if len(possible) == 1 and asked in (most, least) else None
