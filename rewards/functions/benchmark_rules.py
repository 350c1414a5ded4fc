"""How the evaluators of public benchmarks decide whether a prediction is right.

Sources of the rules: MMAU, `evaluation.py` of Sakshi113/MMAU, and MMAR, `code/evaluation.py` of ddlBoJack/MMAR, which match in
the same way; MMSU, the evaluator of dingdongwang/MMSU; Spoken-MQA, `src/dataset_src/spoken_mqa.py` of AudioLLMs/AudioBench; Big
Bench Audio is judged by a language model, its rule here is ours. Neighbours: `answer` follows one with `rules: NAME`, so that a
score compares with published ones. Invariants: pure; nothing is added to a rule, its gaps included (for MMAU letters are words,
for MMSU "Dog" is option D).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from rewards.functions.text import NUMBER_WORDS
from rollout.messages import AnswerKind

KINDS = {  # the answer kinds that each benchmark's rule decides on
    "mmau": (AnswerKind.CHOICE,),
    "mmar": (AnswerKind.CHOICE,),
    "mmsu": (AnswerKind.CHOICE,),
    "spoken_mqa": (AnswerKind.NUMBER,),
    "big_bench_audio": (AnswerKind.EXACT, AnswerKind.NUMBER),
}
RULES = tuple(KINDS)
WORD = re.compile(r"\w+")
LETTERS = "ABCD"
ANSWER_MARK = re.compile(r"The answer is:|The answer is|the answer is|####")
INTEGER_PART = re.compile(r"-?\d+/?\.?\d*")  # AudioBench's idea of a number: a sign, digits, a slash or a point, digits
CLOSED = (
    ("valid", "invalid"),
    ("yes", "no"),
)  # answers of Big Bench Audio; a reply is read as the last of them it names
NEGATED = re.compile(
    r"\b(?:not|\w+n['’]t)[\s*]+(?:an?[\s*]+)?(?:(?!only\b)\w+ly[\s*]+)*(valid|invalid)\b"
)  # "not deductively valid"


def is_benchmark_right(rules: str, reply: str, choices: Sequence[str], reference: str) -> bool:
    """By the rule of a benchmark. Raises ValueError for a reference that the rule can't compare with."""
    match rules:
        case "mmau" | "mmar":
            return is_benchmark_match(reply, choices, reference)
        case "mmsu":
            return is_lettered_match(reply, choices, reference)
        case "spoken_mqa":
            return is_audiobench_number(reply, reference)
        case _:
            return is_closed_answer(reply, reference)


def words(text: str) -> frozenset[str]:
    """Runs of letters, digits and underscores in lower case."""
    return frozenset(WORD.findall(text.lower()))


@lru_cache(maxsize=4096)  # the samples of one question share both
def _sides(answer: str, choices: tuple[str, ...]) -> tuple[frozenset[str], frozenset[str]]:
    """Words that must be in a prediction, and words that must not: those of the other options alone."""
    wanted = words(answer)
    others = (words(choice) for choice in choices)
    return wanted, frozenset().union(*(other - wanted for other in others))


def is_benchmark_match(reply: str, choices: Sequence[str], reference: str) -> bool:
    """Every word of the reference is in the reply, and no word that only other options have; an empty reply is wrong."""
    said = words(reply)
    wanted, banned = _sides(reference, tuple(choices))
    return bool(said) and wanted <= said and said.isdisjoint(banned)


def is_lettered_match(reply: str, choices: Sequence[str], reference: str) -> bool:
    """MMSU: the first character, else the last but one, is the capital letter of the reference's option ("The answer is A.")."""
    said = reply.strip().replace("\n", "")
    if not said:
        return False
    letter = said[0] if said[0] in LETTERS else said[-2:-1]
    index = LETTERS.find(letter) if letter else -1
    return 0 <= index < len(choices) and choices[index] == reference


def is_audiobench_number(reply: str, reference: str) -> bool:
    """Spoken-MQA: the first number after the last "the answer is", or the last number of a reply without it, equals the reference.

    Commas are taken out; numbers are compared as they are written once trailing zeros are gone. Raises ValueError for a reference
    that is no number.
    """
    wanted = _written(reference.replace(",", "").strip())
    if wanted is None:
        raise ValueError(f"the reference {reference!r} is no number that the rule of Spoken-MQA could compare with")
    text = reply.strip("\n")
    if any(text.count(mark) > 1 for mark in ("The answer is:", "The answer is", "the answer is", "####")):
        text = text.split("\n\n")[0]
    parts = ANSWER_MARK.split(text)
    numbers = INTEGER_PART.findall(parts[-1].replace(",", ""))
    if not numbers:
        return False
    return _written(numbers[0] if len(parts) > 1 else numbers[-1]) == wanted


def is_closed_answer(reply: str, reference: str) -> bool:
    """Big Bench Audio without a judge: of the possible answers (valid or invalid, yes or no, a number) the last one named counts.

    "not valid" names invalid, and the other way round, with "a" or adverbs between ("not a deductively valid argument").
    Raises ValueError for a reference that is none of them.
    """
    plain = NEGATED.sub(lambda found: "invalid" if found[1] == "valid" else "valid", reply.lower())
    said = [str(NUMBER_WORDS.get(word, word)) for word in WORD.findall(plain)]
    wanted = reference.strip().lower()
    for known in CLOSED:
        if wanted in known:
            return next((word for word in reversed(said) if word in known), "") == wanted
    if not wanted.isdigit():
        raise ValueError(f"the reference {reference!r} is neither valid, invalid, yes, no nor a whole number")
    return next((word for word in reversed(said) if word.isdigit()), "") == wanted


def _written(text: str) -> str | None:
    """A number as text without trailing zeros, a fraction by its value; None for what is none."""
    top, slash, bottom = text.rstrip("./").partition("/")
    try:
        value = float(top) / float(bottom) if slash else float(top)
    except (ValueError, ZeroDivisionError):
        return None
    return str(int(value)) if value.is_integer() else str(value)
