"""Is the reply right? A choice by letter or text, the exact text, or a number within its tolerance.

Neighbours: `text` says what counts as the same; the question carries kind, options, reference and tolerance.
Invariants: only the reply counts, never the reasoning; a reply that names two different options or numbers is wrong; a
question whose reference can't be used raises (an invalid verdict), it never scores 0.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Sequence
from functools import lru_cache

from rewards.functions.text import canonical, digits_for_words, is_same_number, numbers, tokens
from rewards.messages import Sample
from rewards.registry import reward
from rollout.messages import AnswerKind

DENIED = -1  # stands for "an option named to say that it is not the answer"
DENIALS = frozenset({"not", "never", "neither", "nor", "isn't", "wasn't"})
LEAD_IN = re.compile(
    r"^\W*(?:so\W+|thus\W+|therefore\W+)?(?:(?:the|my)\s+)?(?:(?:final|correct|right|best)\s+)?"
    r"(?:answer(?:\s+is\b|\s*[:=])|it\s+is\b|it['’]s\b)",
    re.IGNORECASE,
)
CUE = re.compile(r"\b(?:answer|option|choice|letter)(?:\s+is)?\s*[:=]?\s*[(\[*\"']*$", re.IGNORECASE)
WORDS_TOO = frozenset("AI")  # letters that are also English words


@reward("answer")
def answer(sample: Sample) -> float:
    """1.0 when the reply is right, else 0.0. Raises ValueError when the question's own data can't be used."""
    question = sample.question
    kind = AnswerKind(question["answer_kind"])
    if kind is AnswerKind.CHOICE:
        choices, reference = question["choices"], question["answer"]
        return float(named_options(sample.reply, choices) == {option_index(choices, reference)})
    if kind is AnswerKind.EXACT:
        return float(is_exact(sample.reply, question["answer"]))
    return float(is_number(sample.reply, question["answer"], question["tolerance"]))


@lru_cache(maxsize=4096)  # the samples of one question share its options
def option_keys(choices: tuple[str, ...]) -> tuple[str, ...]:
    """Options in comparable form. Raises ValueError when two mean the same or one is empty."""
    keys = tuple(canonical(choice) for choice in choices)
    if len(set(keys)) < len(keys) or "" in keys:
        raise ValueError(f"two options mean the same or one is empty: {list(choices)}")
    return keys


def option_index(choices: Sequence[str], reference: str) -> int:
    """Which option the reference is. Raises ValueError when it is none of them."""
    keys, wanted = option_keys(tuple(choices)), canonical(reference)
    if wanted not in keys:
        raise ValueError(f"the reference {reference!r} is none of the options {list(choices)}")
    return keys.index(wanted)


def named_options(reply: str, choices: Sequence[str]) -> set[int]:
    """Indices of all options the reply names, by text or by letter; DENIED is in it when one is named as not the answer."""
    keys = option_keys(tuple(choices))
    bare = LEAD_IN.sub("", reply)
    for whole in (reply,) if bare == reply else (reply, bare):
        said = canonical(whole)
        if said in keys:
            return {keys.index(said)}
    by_text, rest = _by_text(reply, keys)
    return by_text | set(_by_letter(rest, len(keys)))


def _by_text(reply: str, keys: Sequence[str]) -> tuple[set[int], str]:
    """Options named by their text, and the reply with those places blanked; of nested options the longest counts."""
    said = tokens(reply)
    words = [digits_for_words(token.key) for token in said]
    taken = [False] * len(said)
    found: set[int] = set()
    rest = list(reply)
    options = [key.split(" ") for key in keys]
    for index in sorted(range(len(options)), key=lambda i: -len(options[i])):
        option = options[index]
        for start in range(len(said) - len(option) + 1):
            place = range(start, start + len(option))
            if words[start : start + len(option)] != option or any(taken[i] for i in place):
                continue
            if len(option) == 1 and len(option[0]) == 1 and option[0].isalpha():
                continue  # a one-letter option inside a sentence is read as a letter
            for i in place:
                taken[i] = True
            first, last = said[start].start, said[start + len(option) - 1].end
            rest[first:last] = "_" * (last - first)
            denied = start > 0 and words[start - 1] in DENIALS
            found.add(DENIED if denied else index)
    return found, "".join(rest)


def _by_letter(reply: str, count: int) -> Iterator[int]:
    """Options named by their letter: capitals that stand alone, small ones where nothing else can be meant."""
    letters = string.ascii_uppercase[:count]
    if not letters:
        return
    alone = reply.strip(" \t\r\n()[]*.:\"'`")
    if len(alone) == 1 and alone.upper() in letters:
        yield letters.index(alone.upper())
        return
    for match in re.finditer(rf"(?<![\w'’])[{letters}{letters.lower()}](?![\w'’#♯])", reply):
        letter = match.group()
        before, after = reply[: match.start()], reply[match.end() :]
        cued = CUE.search(before) is not None
        wrapped = before[-1:] in ("(", "[") and after[:1] in (")", "]")
        is_word = letter.upper() in WORDS_TOO and re.match(r" +(?!(?:or|and)\b)\w", after) is not None
        if letter.islower():
            leads = not before.strip() and after[:1] in (".", ")", ":")
            stands = wrapped or leads or (cued and not re.match(r"\s+\w", after))
        else:
            stands = wrapped or not is_word
        if stands:
            denied = re.search(r"\b(?:not|neither|nor|isn['’]t)\s+(?:option\s+)?[(\[*\"']*$", before, re.IGNORECASE)
            yield DENIED if denied else letters.index(letter.upper())


def is_exact(reply: str, reference: str) -> bool:
    """The same text up to case, articles, punctuation and number words, with or without `The answer is`."""
    wanted = canonical(reference)
    if not wanted:
        raise ValueError("the reference answer is empty")
    return canonical(reply) == wanted or canonical(LEAD_IN.sub("", reply)) == wanted


def is_number(reply: str, reference: str, tolerance: float) -> bool:
    """The one number the reply names lies within `tolerance` of the reference (unit of the reference)."""
    wanted = numbers(reference)
    if len(wanted) != 1:
        raise ValueError(f"the reference {reference!r} is not one number")
    said = set(numbers(reply))
    return len(said) == 1 and is_same_number(said.pop(), wanted[0], tolerance)
