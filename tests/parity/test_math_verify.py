"""The reward for mathematics says what math-verify says, wherever math-verify answers.

math-verify is given the reply and the reference as they stand; only bare LaTeX, which it does not read, is put in dollars first.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
from pathlib import Path

import pytest
from math_verify import parse, verify

from rewards import reference_faults
from rewards.functions import mathematics
from rewards.functions.mathematics import DELIMITER, is_equal, read

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
from reward_answers import choice_samples, math_samples  # noqa: E402  scripts beside the tests

PAIRS = 300  # of each sort
PIECES = (
    "7", "-7", "0", "12", "1.50", "1.5", "0.333333", "1200", "1,200", "1/2", r"\frac{1}{2}", "0.5", r"\frac{1}{3}", r"\dfrac{2}{4}",
    r"50\%", "50%", "x", "x=7", "7.0", "x+1", "1+x", r"\{1,2\}", r"\{2,1\}", "(1,2)", "[1,2)", "[1,2]", r"\text{even}", "A", "e",
    r"\sqrt{2}", r"\sqrt[3]{8}", "2", r"\pi", r"3\text{ cm}", "3", r"\infty", "1,2", r"x \in [1,2]", r"1 \le x \le 2", "x<3",
    r"\begin{pmatrix}1\\2\end{pmatrix}", r"90^\circ", "90", r"1.2\cdot 10^3", r"-\frac12", "07", "-0", "2^3", "8", "i", "x^2+1",
    r"\left(1,2\right)", r"\mathbb{R}", r"\emptyset", "1 200", "100000.00001", "100000", "0.00001", "y=7", r"7\ \text{apples}",
    "3:4", r"\text{no solution}", r"200 \text{ dollars}", r"\$200", "200",
)  # fmt: skip
REPLIES = (
    "{}", "${}$", r"\boxed{{{}}}", r"$\boxed{{{}}}$", r"The answer is \boxed{{{}}}.", "The answer is ${}$.",
    r"So the final answer is ${}$. ", r"Final answer: \boxed{{{}}}", r"\[\boxed{{{}}}\]", r"\[ {} \]", r"\({}\)", "It is {}",
    "answer: {}", r"hence we get $x=2$, \boxed{{{}}}", r"\boxed{{{}}} percent", "${}$ percent", "$ {} $", "We get [ {} ] ok",
    r"Therefore, the final answer is: $\boxed{{{}}}$. I hope it is correct.", "**{}**", "**Answer:** ${}$", "= ${}$", "$$ {} $$",
    r"\boxed{{ {} }}!", "the answer is: ${}$ !", "x = \\boxed{{{}}}", "Answer \\boxed{{{}}}\n",
)  # fmt: skip
REFERENCES = ("{}", "${}$", r"\boxed{{{}}}", r"\[{}\]")


def of_math_verify(reply: str, reference: str) -> bool:
    given = [read(text).text if DELIMITER.search(text) is None else text for text in (reference, reply)]
    gold, said = (parse(text, parsing_timeout=None) for text in given)
    return bool(verify(gold, said, timeout_seconds=None))


def differing(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Pairs of reply and reference that are judged in two ways; references that can't be parsed are left out."""
    found = []
    for reply, reference in pairs:
        try:
            ours = is_equal(reply, reference)
        except ValueError:
            continue
        if ours != of_math_verify(reply, reference):
            found.append((reply, reference))
    return found


def test_mixed_answers_in_common_forms_are_judged_alike() -> None:
    pairs = [(sample.reply, sample.reference) for sample in math_samples(PAIRS, seed=7)]
    verdicts = {is_equal(*pair) for pair in pairs}
    assert verdicts == {True, False}
    assert differing(pairs) == []


@pytest.mark.filterwarnings("ignore::sympy.utilities.exceptions.SymPyDeprecationWarning")
def test_odd_answers_in_odd_frames_are_judged_alike() -> None:
    draw = random.Random(11)
    pairs = []
    for _ in range(PAIRS):
        piece = draw.choice(PIECES)
        said = piece if draw.random() < 0.4 else draw.choice(PIECES)
        pairs.append((draw.choice(REPLIES).format(said), draw.choice(REFERENCES).format(piece)))
    assert differing(pairs) == []


def test_numbers_and_ratios_judged_without_math_verify_are_judged_alike() -> None:
    values = (
        "7",
        "-7",
        "7.0",
        "0",
        "-0",
        "0.5",
        "0.50",
        "0.00001",
        "0.00002",
        "1/2",
        "-1/2",
        r"\frac{2}{4}",
        r"-\frac{1}{2}",
    )
    near = ("99998/99999", "99997/99998", r"\frac{1}{99999}", r"\dfrac{1}{99998}", "123456789.12345", "123456789.12346")
    pairs = [
        (f"The answer is \\boxed{{{said}}}.", f"${value}$")
        for said, value in itertools.product(values + near, repeat=2)
    ]
    assert all(mathematics._value(read(reply).piece) is not None for reply, _ in pairs)
    assert differing(pairs) == []


def test_the_short_way_spares_math_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = r"$\frac{\sqrt{3}}{2} + 11$"
    is_equal("0", reference)

    def never(text: str) -> list[object]:
        raise AssertionError(f"{text!r} was parsed")

    monkeypatch.setattr(mathematics, "_parse", never)
    assert is_equal(r"The answer is \boxed{\frac{\sqrt{3}}{2} + 11}.", reference)
    assert is_equal(r"\boxed{12}", "12")
    assert not is_equal(r"\boxed{12}", r"\frac{11}{2}")


@pytest.mark.parametrize("reference", ["many", r"\frac{1}{", r"$\frac{1}{0}$", "", r"$\frac{}{}$"])
def test_a_reference_that_can_not_be_parsed_is_an_error_even_when_the_reply_is_the_same(reference: str) -> None:
    with pytest.raises(ValueError, match="can't be parsed as mathematics"):
        is_equal(reference, reference)


@pytest.mark.parametrize(
    "reply", ["", "I do not know.", r"\boxed{\frac{7}{", "$$", r"\boxed{}", "}{", r"$\frac{1}{0}$"]
)
def test_a_reply_that_can_not_be_parsed_is_wrong(reply: str) -> None:
    assert not is_equal(reply, "$7$")


@pytest.mark.parametrize(
    ("reply", "reference", "right"),
    [
        ("2x+1", "2x+1", True),
        ("1+2x", "2x+1", True),
        ("2x+2", "2x+1", False),  # math-verify alone reads "2" on both sides
        (r"\frac{\pi}{2}", r"(1, \frac{\pi}{2})", False),
        (r"$(1, \frac{\pi}{2})$", r"(1, \frac{\pi}{2})", True),
    ],
)
def test_bare_latex_is_read_whole(reply: str, reference: str, right: bool) -> None:
    assert is_equal(reply, reference) == right


def test_the_drawn_answers_are_the_same_each_time_and_of_both_sorts() -> None:
    assert choice_samples(400) == choice_samples(800)[:400]
    assert math_samples(200) == math_samples(400)[:200]
    assert math_samples(80, seed=2) != math_samples(80, seed=1)
    assert len({sample.trajectory_id for sample in choice_samples(400)}) == 400


def test_the_answers_that_keep_math_verify_busy_have_references_that_can_be_used() -> None:
    rows = [json.loads(line) for line in (BENCHMARKS / "hang_set.jsonl").read_text().splitlines()]
    assert len(rows) >= 12
    assert {tuple(row) for row in rows} == {("answer", "reply", "note")}
    assert len({row["note"] for row in rows}) == len(rows)
    assert [row["answer"] for row in rows if reference_faults("math", row["answer"])] == []
