"""The answers reward functions are timed and compared on: seeded samples of multiple choice and of mathematics.

Neighbours: `reward_throughput` scores them with this service and with others side by side; `tests/parity/test_math_verify.py`
checks agreement on them. Invariants: the same seed gives the same samples; eight samples share a question, as in a policy
update; every mathematical reference can be parsed, and stands in dollars or is a plain number, so that every system reads it.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable

from rewards import Sample
from rewards.parse import split_response

SAMPLES_A_QUESTION = 8
SHARE_RIGHT = 0.5
SOURCES = (
    "dog", "violin", "church bell", "water", "owl", "rain", "trumpet", "snare drum", "electric guitar", "engine", "siren",
    "a door slamming", "footsteps", "hand clapping", "a baby crying", "glass breaking", "cello", "flute", "thunder", "keyboard typing",
)  # fmt: skip
CHOICE_RIGHT = (
    "{text}", "{text}", "{text}.", "{letter}", "{letter}.", "({letter})", "{letter}. {text}", "({letter}) {text}", "The {text}.",
    "The answer is {letter}.", "The answer is {letter}. {text}", "The correct answer is ({letter}).", "Answer: {letter}",
    "It is {text}.", "**{letter}**", "I hear {text}.", "The answer is **{text}**.", "So the answer is {text}.",
)  # fmt: skip
CHOICE_ODD = ("{text} or {other}", "I cannot tell.", "", "{letter} and {other_letter}", "not {text}", "All of them.")
SHARE_ODD = 0.1


def choice_samples(count: int = 20_000, seed: int = 1) -> list[Sample]:
    """Multiple choice with two to six options; replies by letter and by text, about half of them right."""
    draw = random.Random(f"choice {seed}")
    samples: list[Sample] = []
    while len(samples) < count:
        options = draw.sample(SOURCES, draw.choice((2, 4, 4, 4, 6)))
        right = draw.randrange(len(options))
        number = len(samples) // SAMPLES_A_QUESTION
        question = _question(
            f"choice-{number:05d}", "What do you hear?", options[right], "choice", options, "source", "benchmark_choice"
        )
        for index in range(min(SAMPLES_A_QUESTION, count - len(samples))):
            said = right if draw.random() < SHARE_RIGHT else draw.randrange(len(options))
            other = (said + 1) % len(options)
            forms = CHOICE_ODD if draw.random() < SHARE_ODD else CHOICE_RIGHT
            letters = string.ascii_uppercase
            reply = draw.choice(forms).format(
                text=options[said], letter=letters[said], other=options[other], other_letter=letters[other]
            )
            heard = draw.choice(SOURCES)
            reasoning = f"I hear {heard}, then {options[said]}. The second one is louder. So {options[said]}."
            samples.append(_sample(question, index, reasoning, reply))
    return samples


def math_samples(count: int = 2_000, seed: int = 1) -> list[Sample]:
    """Answers in mixed forms (fractions, decimals, surds, polynomials, intervals, sets, equations, percents, units)."""
    draw = random.Random(f"math {seed}")
    samples: list[Sample] = []
    while len(samples) < count:
        reference, right, wrong = draw.choice(FAMILIES)(draw)
        number = len(samples) // SAMPLES_A_QUESTION
        question = _question(f"math-{number:05d}", "Work it out.", reference, "math", [], "math", "benchmark_math")
        for index in range(min(SAMPLES_A_QUESTION, count - len(samples))):
            said = draw.choice(right if draw.random() < SHARE_RIGHT else wrong)
            reply = draw.choice(MATH_FORMS).format(said=said)
            samples.append(_sample(question, index, f"We get {number % 7} steps, and then the result {said}.", reply))
    return samples


MATH_FORMS = (
    r"\boxed{{{said}}}", r"$\boxed{{{said}}}$", r"The answer is \boxed{{{said}}}.", "${said}$", "The answer is ${said}$.",
    r"So the final answer is \boxed{{{said}}}.", r"Adding up, we get \[\boxed{{{said}}}\]",
)  # fmt: skip

Family = tuple[str, list[str], list[str]]  # the reference; right answers; wrong ones (LaTeX without delimiters)


def _integer(draw: random.Random) -> Family:
    value = draw.randrange(-40, 5000)
    right = [str(value), str(value), f"{value}.0", rf"\frac{{{2 * value}}}{{2}}", f"{value - 3}+3"]
    return str(value), right, [str(value + 1), str(-value - 1), f"{value}.5", rf"\frac{{{value}}}{{3}}+1"]


def _decimal(draw: random.Random) -> Family:
    hundredths = draw.randrange(1, 2000)
    value = f"{hundredths // 100}.{hundredths % 100:02d}"
    right = [value, value + "0", rf"\frac{{{hundredths}}}{{100}}"]
    return value, right, [f"{hundredths // 100 + 1}.{hundredths % 100:02d}", rf"\frac{{{hundredths}}}{{10}}"]


def _fraction(draw: random.Random) -> Family:
    top, bottom = draw.randrange(1, 30), draw.randrange(31, 60)
    form = rf"\frac{{{top}}}{{{bottom}}}"
    right = [form, form, rf"\frac{{{3 * top}}}{{{3 * bottom}}}", rf"\dfrac{{{top}}}{{{bottom}}}", f"{top}/{bottom}"]
    return f"${form}$", right, [rf"\frac{{{bottom}}}{{{top}}}", rf"-{form}", f"{top}/{bottom + 1}"]


def _surd(draw: random.Random) -> Family:
    outer, inner = draw.randrange(2, 9), draw.choice((2, 3, 5, 6, 7))
    form = rf"{outer}\sqrt{{{inner}}}"
    right = [form, form, rf"\sqrt{{{outer * outer * inner}}}", rf"\sqrt{{{inner}}} \cdot {outer}"]
    return f"${form}$", right, [rf"{inner}\sqrt{{{outer}}}+1", rf"\sqrt{{{outer * inner}}}-1", str(outer * inner)]


def _polynomial(draw: random.Random) -> Family:
    one, other = draw.randrange(1, 9), draw.randrange(1, 9)
    form = f"x^2+{one + other}x+{one * other}"
    right = [form, form, f"(x+{one})(x+{other})", f"{one * other}+{one + other}x+x^{{2}}"]
    return f"${form}$", right, [f"(x-{one})(x+{other})", f"x^2+{one + other}x", f"x^2+{one + other}x+{one * other + 1}"]


def _interval(draw: random.Random) -> Family:
    low, high = draw.randrange(-9, 0), draw.randrange(1, 9)
    form = f"[{low},{high})"
    right = [form, form, rf"\left[{low}, {high}\right)"]
    return f"${form}$", right, [f"({low},{high})", f"[{low},{high + 1})", f"[{low},{high}]"]


def _set(draw: random.Random) -> Family:
    one, two, three = draw.sample(range(1, 30), 3)
    form = rf"\{{{one},{two},{three}\}}"
    right = [form, form, rf"\{{{three},{one},{two}\}}", rf"\left\{{{one}, {two}, {three}\right\}}"]
    return f"${form}$", right, [rf"\{{{one},{two}\}}", rf"\{{{one},{two},{three + 1}\}}", f"{one}"]


def _equation(draw: random.Random) -> Family:
    value = draw.randrange(-20, 20)
    form = f"x={value}"
    right = [form, form, f"x = {value}", str(value)]
    return f"${form}$", right, [f"x={value + 1}", f"{value - 1}", f"y={value + 2}"]


def _angle(draw: random.Random) -> Family:
    top, bottom = draw.choice((1, 2, 5, 7)), draw.choice((3, 4, 6, 9))
    form = rf"\frac{{{top}\pi}}{{{bottom}}}"
    right = [form, form, rf"\frac{{{top}}}{{{bottom}}}\pi", rf"\frac{{{2 * top}\pi}}{{{2 * bottom}}}"]
    return f"${form}$", right, [rf"\frac{{{top}\pi}}{{{bottom + 1}}}", rf"\frac{{{top}}}{{{bottom}}}", r"\pi"]


def _percent(draw: random.Random) -> Family:
    value = draw.randrange(1, 100)
    right = [rf"{value}\%", rf"{value}\%", str(value)]
    return rf"${value}\%$", right, [rf"{value + 1}\%", str(value + 2), rf"\frac{{{value}}}{{7}}"]


def _length(draw: random.Random) -> Family:
    value = draw.randrange(2, 400)
    form = rf"{value}\text{{ cm}}"
    return f"${form}$", [form, form, str(value), rf"{value} \text{{cm}}"], [rf"{value + 1}\text{{ cm}}", f"{value}.5"]


def _power(draw: random.Random) -> Family:
    base, exponent = draw.choice((2, 3, 5)), draw.randrange(3, 9)
    form = f"{base}^{{{exponent}}}"
    return f"${form}$", [form, form, str(base**exponent)], [f"{exponent}^{{{base}}}+1", str(base**exponent + 1)]


FAMILIES: tuple[Callable[[random.Random], Family], ...] = (
    _integer, _integer, _decimal, _fraction, _surd, _polynomial, _interval, _set, _equation, _angle, _percent, _length, _power,
)  # fmt: skip


def _question(
    identifier: str, prompt: str, answer: str, kind: str, choices: list[str], task: str, dataset: str
) -> dict[str, object]:
    return {
        "id": identifier, "prompt": prompt, "answer": answer, "answer_kind": kind, "choices": choices, "tolerance": 0.0,
        "audio": [], "domain": "", "task": task, "split": "train", "source": "generated", "truth": {}, "history": [],
        "rubric": "", "dataset": dataset,
    }  # fmt: skip


def _sample(question: dict[str, object], index: int, reasoning: str, reply: str) -> Sample:
    text = f"<think>\n{reasoning}\n</think>\n{reply}"
    thought, said, well_formed = split_response(text)
    words = len(text.split())
    return Sample(
        f"benchmark/{question['id']}/{index}",
        question,
        text,
        thought,
        said,
        well_formed,
        True,
        words,
        len(thought.split()),
    )
