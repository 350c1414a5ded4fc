"""Which replies are right, which are wrong, and which questions can't be judged."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards import Sample
from rewards.functions.answer import answer, named_options

FOUR = ["dog", "violin", "church bell", "water"]


def sample(reply: str, kind: str, reference: str, choices: list[str] | None = None, tolerance: float = 0.0) -> Sample:
    question = {"answer_kind": kind, "answer": reference, "choices": choices or [], "tolerance": tolerance}
    return Sample("t", question, reply, "", reply, True, True, 3, 0)


RIGHT_CHOICES = [
    "violin", "Violin.", "a violin", "The violin!", "  violin\n", "“violin”", "**violin**",
    "B", "b", "(B)", "[b]", "B.", "B)", "B:", "**B**", "**(B)**", '"B"',
    "B. violin", "(B) violin", "B) Violin", "B: a violin", "B - violin", "B violin",
    "The answer is B", "The answer is B.", "the correct answer is (b).", "Answer: B", "answer: violin", "Final answer: B. violin",
    "It is a violin.", "It's the violin", "I hear a violin.", "Option B", "I think it is option B", "My choice: B",
    "B, the violin", "So the answer is violin.", "B\nviolin", "The answer is **B**.", "violin (B)",
]  # fmt: skip
WRONG_CHOICES = [
    "", " ", "?", "A", "(C)", "dog", "The answer is D", "cello", "viola", "violins",
    "A. violin", "B. dog", "violin or dog", "dog, violin", "B or C", "A and B", "B/C", "A, B, C, D", "either B or (D)",
    "not a violin", "It is not B", "a dog, not a violin", "A\nviolin", "A) the violin", "E", "Bdog", "the answer is between",
    "dog violin church bell water", "church bell, no, violin",
]  # fmt: skip


@pytest.mark.parametrize("reply", RIGHT_CHOICES)
def test_a_choice_is_right_by_letter_or_text(reply: str) -> None:
    assert answer(sample(reply, "choice", "violin", FOUR)) == 1.0


@pytest.mark.parametrize("reply", WRONG_CHOICES)
def test_a_choice_is_wrong_when_it_names_another_option_or_none_or_two(reply: str) -> None:
    assert answer(sample(reply, "choice", "violin", FOUR)) == 0.0


@pytest.mark.parametrize(
    ("reply", "choices", "named"),
    [
        ("A dog barks.", ["cat", "dog"], {1}),  # A is the article
        ("A. A dog", ["dog", "cat"], {0}),
        ("The answer is A", ["dog", "cat"], {0}),
        ("a", ["dog", "cat"], {0}),
        ("A or B", ["dog", "cat"], {0, 1}),
        ("I hear a dog", [*"ZYXWVUTS", "cat", "dog"], {9}),  # I is a person
        ("electric guitar", ["guitar", "electric guitar"], {1}),
        ("the guitar", ["guitar", "electric guitar"], {0}),
        ("The key is D major.", ["C major", "A major", "F major", "D major"], {3}),
        ("D", ["C", "D", "E", "F"], {1}),  # the text wins over the letter
        ("C#", ["C", "C#"], {1}),
        ("(C) 7", ["5", "6", "7"], {2}),
        ("seven", ["5", "6", "7"], {2}),
        ("7", ["five", "six", "seven"], {2}),
        ("-3 dB", ["3 dB", "-3 dB"], {1}),
        ("church bell", FOUR, {2}),
        ("a bell of a church", FOUR, set()),
        ("第二", ["第一", "第二"], {1}),
    ],
)
def test_which_options_a_reply_names(reply: str, choices: list[str], named: set[int]) -> None:
    assert named_options(reply, choices) == named


@pytest.mark.parametrize(
    ("choices", "reference"),
    [(FOUR, "cello"), (["dog", "The dog!"], "dog"), (["dog", ""], "dog"), ([], "dog"), (["2", "two"], "2")],
)
def test_a_choice_question_that_makes_no_sense_is_an_error(choices: list[str], reference: str) -> None:
    with pytest.raises(ValueError, match="option"):
        answer(sample("dog", "choice", reference, choices))


@given(st.integers(2, 8), st.data())
def test_letter_and_text_of_the_same_option_agree(count: int, data: st.DataObject) -> None:
    words = ["violin", "church bell", "dog", "rain", "trumpet", "seven", "water drop", "snare drum"]
    choices = data.draw(st.permutations(words))[:count]
    right, said = data.draw(st.integers(0, count - 1)), data.draw(st.integers(0, count - 1))
    letter = string.ascii_uppercase[said]
    template = data.draw(
        st.sampled_from(["{t}", "{l}", "({l})", "{l}. {t}", "The answer is {l}.", "It is {t}.", "{l}: the {t}"])
    )
    reply = template.format(t=choices[said], l=letter)
    assert answer(sample(reply, "choice", choices[right], choices)) == float(said == right)


@given(st.text(max_size=60))
def test_any_text_gets_a_score(reply: str) -> None:
    assert answer(sample(reply, "choice", "violin", FOUR)) in (0.0, 1.0)
    assert answer(sample(reply, "exact", "violin")) in (0.0, 1.0)
    assert answer(sample(reply, "number", "3", tolerance=0.5)) in (0.0, 1.0)


@pytest.mark.parametrize(
    ("reply", "reference", "right"),
    [
        ("Seven.", "seven", True),
        ("7", "seven", True),
        ("the answer is: the Church-Bell", "church bell", True),
        ("It's seven", "seven", True),
        ("0.50 s", "0.5 s", True),
        ("440Hz", "440 Hz", True),
        ("1,000", "1000", True),
        ("seven eight", "seven", False),
        ("not seven", "seven", False),
        ("-3", "3", False),
        ("C#", "C", False),
        ("", "seven", False),
    ],
)
def test_exact_ignores_case_articles_and_punctuation_only(reply: str, reference: str, right: bool) -> None:
    assert answer(sample(reply, "exact", reference)) == float(right)


@pytest.mark.parametrize(
    ("reply", "reference", "tolerance", "right"),
    [
        ("3", "3", 0, True),
        ("three", "3", 0, True),
        ("There are three events.", "3", 0, True),
        ("3 (three)", "3", 0, True),
        ("zero", "0", 0, True),
        ("Twenty", "20", 0, True),
        ("twenty-one", "21", 0, True),
        ("twenty-one", "20", 0, False),
        ("12", "twelve", 0, True),
        ("about 443 Hz", "440", 5, True),
        ("446 Hz", "440", 5, False),
        ("440Hz", "440", 0, True),
        ("-9 dB", "-9", 0, True),
        ("−9 dB", "-9", 0, True),
        ("9 dB", "-9", 0, False),
        (
            "0.3",
            "0.1",
            0.2,
            True,
        ),  # 0.3 - 0.1 is 0.19999999999999998 in binary; 0.3 - 0.1 <= 0.2 holds, the next does not
        ("0.7", "0.6", 0.1, True),  # 0.7 - 0.6 is 0.09999999999999998
        ("1.1", "1.0", 0.1, True),  # 1.1 - 1.0 is 0.10000000000000009
        ("1,200 Hz", "1200", 0, True),
        (".5", "0.5", 0, True),
        ("3.", "3", 0, True),
        ("3 or 4", "3", 0, False),
        ("2-3", "3", 0, False),
        ("the 3rd", "3", 0, False),
        ("many", "3", 0, False),
        ("", "3", 0, False),
        ("1e999", "3", 0, False),
        ("someone", "1", 0, False),
    ],
)
def test_a_number_is_right_within_its_tolerance(reply: str, reference: str, tolerance: float, right: bool) -> None:
    assert answer(sample(reply, "number", reference, tolerance=tolerance)) == float(right)


@pytest.mark.parametrize(
    ("kind", "reference"), [("number", "many"), ("number", "3 or 4"), ("exact", " "), ("essay", "x")]
)
def test_a_reference_that_can_not_be_used_is_an_error_not_a_zero(kind: str, reference: str) -> None:
    with pytest.raises(ValueError, match=r"reference|AnswerKind"):
        answer(sample("3", kind, reference))


@given(st.floats(-1e6, 1e6).map(lambda x: round(x, 3)), st.floats(0, 100).map(lambda x: round(x, 3)))
def test_number_matching_is_the_distance_rule(value: float, tolerance: float) -> None:
    assert answer(sample(f"{value:.3f}", "number", "12.5", tolerance=tolerance)) == float(
        abs(value - 12.5) <= tolerance + 1e-8
    )
