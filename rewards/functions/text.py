"""Text as matching sees it: words without case, articles and punctuation, and numbers wherever they stand.

Neighbours: `choice`, `units`, `transcript`, `elements` and `answer` compare replies with references through this.
Invariants: pure; text that is not empty never becomes an empty key (an option "A" or "?" keeps a key of its own).
"""

from __future__ import annotations

import math
import re
import unicodedata
from typing import NamedTuple

ARTICLES = frozenset({"a", "an", "the"})
# fmt: off
SMALL = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)
TENS = {
    "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}
# fmt: on
NUMBER_WORDS = {word: value for value, word in enumerate(SMALL)} | TENS

# A sign right after a word or digit is a dash. A sharp belongs to a note's name.
DIGITS = r"(?<![\w.])[+\-−]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?:e[+-]?\d+)?"
TOKEN = re.compile(rf"{DIGITS}|[^\W_]+(?:['’][^\W_]+)*[#♯]?|%", re.IGNORECASE)
LEAD_IN = re.compile(
    r"^\W*(?:so\W+|thus\W+|therefore\W+)?(?:(?:the|my)\s+)?(?:(?:final|correct|right|best)\s+)?"
    r"(?:answer(?:\s+is\b|\s*[:=])|it\s+is\b|it['’]s\b)",
    re.IGNORECASE,
)


class Token(NamedTuple):
    """A word or number in comparable form; start, end: where it stands in the text."""

    key: str
    start: int
    end: int


def tokens(text: str) -> list[Token]:
    """Words and numbers in order; articles (before a space: "A." is a letter) are left out unless there is nothing else."""
    everything = [Token(_key(m.group()), m.start(), m.end()) for m in TOKEN.finditer(text)]
    kept = [token for token in everything if token.key not in ARTICLES or text[token.end : token.end + 1] != " "]
    if kept or everything:
        return kept or everything
    stripped = text.strip()
    start = text.find(stripped)
    return [Token(stripped.casefold(), start, start + len(stripped))] if stripped else []


def normalise(text: str) -> str:
    """The comparable form: two texts that differ only in case, articles, punctuation or spacing have the same one."""
    return " ".join(token.key for token in tokens(text))


def digits_for_words(key: str) -> str:
    """`7` for `seven`; any other key unchanged."""
    return str(NUMBER_WORDS.get(key, key))


def canonical(text: str) -> str:
    """`normalise` with number words as digits, so that `seven` equals `7`."""
    return " ".join([digits_for_words(token.key) for token in tokens(text)])


def without_lead_in(text: str) -> str:
    """The text after an opening such as `So the answer is` or `It's`."""
    return LEAD_IN.sub("", text)


def is_exact(reply: str, reference: str) -> bool:
    """The same text up to case, articles, punctuation and number words, with or without a lead-in.

    Raises ValueError when the reference has no text.
    """
    wanted = canonical(reference)
    if not wanted:
        raise ValueError("the reference answer is empty")
    return canonical(reply) == wanted or canonical(without_lead_in(reply)) == wanted


def _key(token: str) -> str:
    token = token.lower() if token.isascii() else _plain(token)
    if token[-1].isdigit() and not token[0].isalpha():
        token = token.replace("−", "-").replace(",", "").removeprefix("+")
        if "." in token and "e" not in token:
            token = token.rstrip("0").rstrip(".")
    return token


def _plain(token: str) -> str:
    return unicodedata.normalize("NFKC", token).casefold().replace("’", "'").replace("♯", "#")


def is_same_number(one: float, other: float, tolerance: float) -> bool:
    """Within `tolerance` (absolute), rounding of binary fractions forgiven."""
    return math.isfinite(one) and math.isfinite(other) and abs(one - other) <= tolerance + 1e-9 * max(1.0, abs(other))
