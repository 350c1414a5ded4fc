"""Works a text problem out in short steps, as they stand in the think block.

Neighbours: `problems` draws the parameters, `verify` checks the result. Invariants: pure, from `Question.truth` alone; every
equation that is written holds; the last sentence is the conclusion `So {answer}.`, as in acoustic chains.
"""

from __future__ import annotations

from typing import Any

from orchestrator.datasets.text_reasoning.problems import FAMILIES
from rollout.messages import Question

NAME = "text_reasoning"
FEW = 5  # a product with a factor up to this is a repeated sum


def has_reasoning(question: Question) -> bool:
    """Whether `reasoning_of` can work it out: a generated question with its parameters."""
    return question.dataset == NAME and question.task in FAMILIES and bool(question.truth)


def reasoning_of(question: Question) -> str:
    """Steps and conclusion. Raises ValueError for a question that is not one of these families."""
    steps = {"arithmetic": _arithmetic, "units": _units, "ordering": _ordering, "algebra": _algebra}.get(question.task)
    if steps is None or not question.truth:
        raise ValueError(f"question {question.id!r} (task {question.task!r}) is no text problem with parameters")
    return " ".join([*steps(question.truth), f"So {question.answer}."])


def _arithmetic(truth: dict[str, Any]) -> list[str]:
    a, b = truth["a"], truth["b"]
    return {"+": _sum, "-": _difference, "*": _product}[truth["sign"]](a, b)


def _sum(a: int, b: int) -> list[str]:
    """Units first, then tens, where both have tens."""
    if min(a, b) < 10:
        return [f"{a} + {b} = {a + b}."]
    ones, tens = a % 10 + b % 10, a - a % 10 + b - b % 10
    if a % 10 == 0 or b % 10 == 0:
        return [f"{a} + {b} = {a + b}."]
    return [f"{a % 10} + {b % 10} = {ones}.", f"{a - a % 10} + {b - b % 10} = {tens}.", f"{tens} + {ones} = {a + b}."]


def _difference(a: int, b: int) -> list[str]:
    """Tens first, then units."""
    if b < 10 or b % 10 == 0:
        return [f"{a} - {b} = {a - b}."]
    left = a - (b - b % 10)
    return [f"{a} - {b - b % 10} = {left}.", f"{left} - {b % 10} = {a - b}."]


def _product(a: int, b: int) -> list[str]:
    """A repeated sum for a small factor, else the factor split in two."""
    few, many = sorted((a, b))
    if few == 1:
        return [f"{a} * {b} = {a * b}."]
    if few <= FEW:
        return [f"{' + '.join([str(many)] * few)} = {a * b}."]
    first = few - few % 10 if few > 10 and few % 10 else FEW if few <= 10 else 10
    first, rest = (first, few - first) if first < few else (few // 2, few - few // 2)
    return [
        f"{first} * {many} = {first * many}.",
        f"{rest} * {many} = {rest * many}.",
        f"{first * many} + {rest * many} = {a * b}.",
    ]


def _units(truth: dict[str, Any]) -> list[str]:
    given, factor, rest = truth["given"], truth["factor"], truth["rest"]
    unit, wanted = truth["unit"], truth["wanted"]
    if truth["given"] % factor == 0 and _is_larger(wanted, unit):
        return [f"{factor} {unit} make one.", f"{given} / {factor} = {given // factor}."]
    steps = [f"One is {factor} {wanted}.", f"{given} * {factor} = {given * factor}."]
    return [*steps, f"{given * factor} + {rest} = {given * factor + rest}."] if rest else steps


def _is_larger(one: str, other: str) -> bool:
    from orchestrator.datasets.text_reasoning.problems import UNITS

    return any(large == one and small == other for large, small, _ in UNITS)


def _ordering(truth: dict[str, Any]) -> list[str]:
    if "row" in truth:
        return [f"{', '.join(truth['row'])}."]
    numbers, asked = truth["numbers"], truth["asked"]
    if asked == "order":
        return [f"{' < '.join(map(str, sorted(numbers)))}."]
    steps, best = [], numbers[0]
    for number in numbers[1:]:
        steps.append(f"{number} {'>' if number > best else '<'} {best}.")
        best = max(best, number) if asked == "largest" else min(best, number)
    return steps


def _algebra(truth: dict[str, Any]) -> list[str]:
    a, b, c = truth["a"], truth["b"], truth["c"]
    steps = []
    if b:
        steps.append(f"{'' if a == 1 else f'{a} '}x = {c} {'-' if b > 0 else '+'} {abs(b)} = {c - b}.")
    if a > 1:
        steps.append(f"x = {c - b} / {a} = {(c - b) // a}.")
    return steps
