"""Replies judged by the rules of MMSU and Spoken-MQA get what the benchmarks' own evaluators give them.

The expected values were made outside this repository, by the evaluator of dingdongwang/MMSU and by `answer_clean` and
`compare_answer_with_groundtruth` of AudioLLMs/AudioBench, on every line of the tables. On 200,000 random replies each, MMSU agreed on all,
Spoken-MQA on all but 39: fractions with a leading zero such as `03/4`, which the evaluator's use of `eval` can't read.
"""

from __future__ import annotations

import pytest

from rewards.functions.benchmark_rules import is_audiobench_number, is_closed_answer, is_lettered_match

FOUR, TWO = ("dog", "cat", "owl", "bee"), ("dog", "cat")

# prediction, options, reference, what the evaluator says
LETTERS = [
    ("A", FOUR, "dog", True),
    ("A. dog", FOUR, "dog", True),
    ("B", FOUR, "dog", False),
    ("The answer is A.", FOUR, "dog", True),
    ("The answer is A", FOUR, "dog", False),
    ("(A)", FOUR, "dog", True),
    ("dog", FOUR, "dog", False),
    ("a", FOUR, "dog", False),
    ("Dog", FOUR, "bee", True),
    ("Cat", FOUR, "owl", True),
    ("C", TWO, "dog", False),
    ("\n A\n", FOUR, "dog", True),
    ("", FOUR, "dog", False),
    ("E", FOUR, "dog", False),
    ("It is (B)", FOUR, "cat", True),
]
# prediction, reference, what the evaluator says
NUMBERS = [
    ("1002", "1002", True),
    ("1,002", "1002", True),
    ("592 + 410 = 1002.", "1002", True),
    ("The answer is 9 apples", "9", True),
    ("The answer is 4 and 5, so 9", "9", False),
    ("the answer is: 9.0", "9", True),
    ("#### 9", "9", True),
    ("nine", "9", False),
    ("", "9", False),
    ("-3", "-3", True),
    ("3 - 6", "-3", False),
    ("0.750", "0.75", True),
    ("3/4", "0.75", True),
    ("9$", "9", True),
    ("9 or 10", "9", False),
    ("The answer is 9.\n\nThe answer is 10.", "9", True),
]
# the rule for Big Bench Audio is ours
CLOSED = [
    ("Valid.", "valid", True),
    ("The argument is invalid", "valid", False),
    ("Not valid but invalid", "invalid", True),
    ("Yes", "Yes", True),
    ("No, wait: yes.", "Yes", True),
    ("yesterday", "Yes", False),
    ("There are 12.", "12", True),
    ("five and seven, twelve", "12", True),
    ("", "No", False),
]


@pytest.mark.parametrize(("reply", "choices", "reference", "expected"), LETTERS)
def test_the_letter_rule_of_mmsu(reply: str, choices: tuple[str, ...], reference: str, expected: bool) -> None:
    assert is_lettered_match(reply, choices, reference) is expected


@pytest.mark.parametrize(("reply", "reference", "expected"), NUMBERS)
def test_the_number_rule_of_spoken_mqa(reply: str, reference: str, expected: bool) -> None:
    assert is_audiobench_number(reply, reference) is expected


@pytest.mark.parametrize(("reply", "reference", "expected"), CLOSED)
def test_the_closed_answers_of_big_bench_audio(reply: str, reference: str, expected: bool) -> None:
    assert is_closed_answer(reply, reference) is expected


def test_a_reference_that_no_reply_could_match_is_refused() -> None:
    with pytest.raises(ValueError, match="no number"):
        is_audiobench_number("9", "nine")
    with pytest.raises(ValueError, match="neither valid"):
        is_closed_answer("9", "maybe")
