"""Which of the options a reply names: by their text, by their letter, or by both.

Neighbours: `answer` compares the named ones with the reference; `text` says what counts as the same.
Invariants: pure; a reply that names two options names both, one named only to deny it counts as `DENIED`; the short ways
(`_whole`) find what the long way would have found.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from rewards.functions.text import LEAD_IN, canonical, digits_for_words, tokens, without_lead_in

DENIED = -1  # stands for "an option named to say that it is not the answer"
DENIALS = frozenset({"not", "never", "neither", "nor", "isn't", "wasn't"})
DENIAL = re.compile(r"\b(?:not|neither|nor|isn['’]t)\s+(?:option\s+)?[(\[*\"']*$", re.IGNORECASE)
CUE = re.compile(r"\b(?:answer|option|choice|letter)(?:\s+is)?\s*[:=]?\s*[(\[*\"']*$", re.IGNORECASE)
WORD_AFTER = re.compile(r" +(?!(?:or|and)\b)\w")
WORDS_TOO = frozenset("AI")  # letters that are also English words
FRAME = " \t\r\n()[]*.:\"'`"  # around a letter or an option
OPENING = FRAME.replace(".", "")  # ".5" is not "5"
AFTER_LEAD_IN = OPENING.replace("'", "")  # "It is 'A" may quote an article
CONTEXT = 60  # characters around a letter that are looked at, so that a long loop of letters takes linear time
WAYS = ("either", "letter", "text")
NONE: frozenset[int] = frozenset()


class Named(NamedTuple):
    """Indices of the options a reply names by text and by letter; either may hold DENIED."""

    texts: frozenset[int]
    letters: frozenset[int]


@dataclass(frozen=True, slots=True)
class Options:
    """A question's options, made ready once. keys: comparable form; plain: raw text (framing punctuation off) to index;
    longest_first: index and words; letters: their names; short: one is a single character, so that letters are ambiguous;
    opening: one starts with words of a lead-in."""

    keys: dict[str, int]
    plain: dict[str, int]
    longest_first: tuple[tuple[int, list[str]], ...]
    letters: str
    letter: re.Pattern[str]
    short: bool
    opening: bool


@lru_cache(maxsize=4096)  # the samples of one question share its options
def options_of(choices: tuple[str, ...]) -> Options:
    """Raises ValueError when two options mean the same or one is empty."""
    keys = {canonical(choice): index for index, choice in enumerate(choices)}
    if len(keys) < len(choices) or "" in keys:
        raise ValueError(f"two options mean the same or one is empty: {list(choices)}")
    plain = {choice.lstrip(OPENING).rstrip(FRAME): index for index, choice in enumerate(choices)}
    ordered = sorted(keys, key=lambda key: -len(key.split(" ")))
    letters = string.ascii_uppercase[: len(choices)]
    return Options(
        keys=keys,
        plain={text: index for text, index in plain.items() if keys.get(canonical(text)) == index},
        longest_first=tuple((keys[key], key.split(" ")) for key in ordered),
        letters=letters,
        letter=re.compile(rf"(?<![\w'’])[{letters}{letters.lower()}](?![\w'’#♯])" if letters else r"(?!)"),
        short=any(len(key) == 1 for key in keys),
        opening=any(LEAD_IN.match(choice) for choice in choices),
    )


def option_index(choices: Sequence[str], reference: str) -> int:
    """Which option the reference is. Raises ValueError when it is none of them."""
    options = options_of(tuple(choices))
    index = options.plain.get(reference)
    if index is None:
        index = options.keys.get(canonical(reference))
    if index is None:
        raise ValueError(f"the reference {reference!r} is none of the options {list(choices)}")
    return index


def is_choice(reply: str, choices: Sequence[str], reference: str, by: str = "either") -> bool:
    """Whether the reply names the reference and nothing else; by: `either`, or the way in which it must be named at least.

    Raises ValueError when options or reference make no sense.
    """
    right = option_index(choices, reference)
    options = options_of(tuple(choices))
    if by == "letter" and (alone := _alone(reply, options)) is not None:
        return alone == right
    named = _whole(reply, options) or _named(reply, options)
    found = named.texts if not named.letters else named.texts | named.letters
    if len(found) != 1 or right not in found:
        return False
    return by == "either" or right in (named.letters if by == "letter" else named.texts)


def named_options(reply: str, choices: Sequence[str]) -> set[int]:
    """Indices of all options the reply names, by text or by letter; DENIED is in it when one is named as not the answer."""
    options = options_of(tuple(choices))
    named = _whole(reply, options) or _named(reply, options)
    return set(named.texts | named.letters)


def _whole(reply: str, options: Options) -> Named | None:
    """The common short replies: an option's text or a letter, alone or after a lead-in. None: take the long way."""
    body = reply.lstrip(OPENING).rstrip(FRAME)
    index = options.plain.get(body)
    if index is not None:
        return Named(frozenset((index,)), NONE)
    if options.short or options.opening:
        return None
    if len(body) == 1 and body.isascii() and body.isalpha():
        index = options.letters.find(body.upper())
        return Named(NONE, frozenset((index,)) if index >= 0 else NONE)
    lead = LEAD_IN.match(body)
    if lead is None:
        return None
    body = body[lead.end() :].lstrip(AFTER_LEAD_IN)
    index = options.plain.get(body)
    if index is not None:
        return Named(frozenset((index,)), NONE)
    if len(body) == 1 and body in options.letters:
        return Named(NONE, frozenset((options.letters.index(body),)))
    return None


def _named(reply: str, options: Options) -> Named:
    """The long way: the whole reply as an option, else every option and letter inside it."""
    bare = without_lead_in(reply)
    for whole in (reply,) if bare == reply else (reply, bare):
        index = options.keys.get(canonical(whole))
        if index is not None:
            return Named(frozenset((index,)), NONE)
    texts, rest = _by_text(reply, options)
    return Named(frozenset(texts), frozenset(_by_letter(rest, options)))


def _by_text(reply: str, options: Options) -> tuple[set[int], str]:
    """Options named by their text, and the reply with those places blanked; of nested options the longest counts."""
    said = tokens(reply)
    words = [digits_for_words(token.key) for token in said]
    known = set(words)
    taken = [False] * len(said)
    found: set[int] = set()
    rest = reply
    for index, option in options.longest_first:
        if not known.issuperset(option):
            continue
        if len(option) == 1 and len(option[0]) == 1 and option[0].isalpha():
            continue  # a one-letter option inside a sentence is read as a letter
        for start in range(len(said) - len(option) + 1):
            end = start + len(option)
            if words[start:end] != option or any(taken[start:end]):
                continue
            taken[start:end] = [True] * len(option)
            first, last = said[start].start, said[end - 1].end
            rest = rest[:first] + "_" * (last - first) + rest[last:]
            denied = start > 0 and words[start - 1] in DENIALS
            found.add(DENIED if denied else index)
    return found, rest


def _alone(reply: str, options: Options) -> int | None:
    """The option whose letter is the whole reply."""
    alone = reply.strip(FRAME).upper()
    return options.letters.index(alone) if len(alone) == 1 and alone in options.letters else None


def _by_letter(reply: str, options: Options) -> Iterator[int]:
    """Options named by their letter: capitals that stand alone, small ones where nothing else can be meant."""
    alone = _alone(reply, options)
    if alone is not None:
        yield alone
        return
    first = len(reply) - len(reply.lstrip())
    for match in options.letter.finditer(reply):
        letter, start, end = match.group(), match.start(), match.end()
        before, after = reply[max(0, start - CONTEXT) : start], reply[end : end + CONTEXT]
        wrapped = before[-1:] in ("(", "[") and after[:1] in (")", "]")
        if letter.islower():
            leads = start == first and after[:1] in (".", ")", ":")
            stands = wrapped or leads or (CUE.search(before) is not None and not re.match(r"\s+\w", after))
        else:
            stands = wrapped or letter not in WORDS_TOO or WORD_AFTER.match(after) is None
        if stands:
            yield DENIED if DENIAL.search(before) else options.letters.index(letter.upper())
