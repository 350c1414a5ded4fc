"""Answers of several elements: "dog, violin and owl" as a set or as a list.

Neighbours: `answer` scores replies to set and list questions with it; `text` says when two elements are the same.
Invariants: pure; in a set order and repetition do not count, in a list both do; a partly right answer scores 0 unless partial
credit is asked for.
"""

from __future__ import annotations

import re
from functools import lru_cache

from rewards.functions.text import canonical, without_lead_in

OPENING = re.compile(
    r"^\W*(?:(?:i\s+(?:can\s+)?(?:hear|heard)|there\s+(?:is|are|was|were)|they\s+are|these\s+are|first)\b\s*:?|:)",
    re.IGNORECASE,
)
BULLET = re.compile(r"^[ \t]*(?:[-*•]|\(?\d{1,2}[.)])\s+", re.MULTILINE)
STRONG = re.compile(r";|\n|->|→|⇒")  # where one of these stands, a comma belongs to an element
WEAK = re.compile(r",|&|\+|\band\s+then\b|\bfollowed\s+by\b|\bthen\b|\band\b", re.IGNORECASE)
BRACKETS = {"(": ")", "[": "]", "{": "}"}


def elements(text: str) -> tuple[str, ...]:
    """The elements in comparable form, in order; empty ones are left out."""
    text = OPENING.sub("", without_lead_in(BULLET.sub("", text.strip())))
    text = text.strip().rstrip(".").strip("*` ")
    if text[:1] in BRACKETS and text[-1:] == BRACKETS[text[0]]:
        text = text[1:-1]
    parts = STRONG.split(text) if STRONG.search(text) else WEAK.split(text)
    return tuple(key for part in parts if (key := canonical(part.strip(" .,")))) if text else ()


@lru_cache(maxsize=4096)
def reference_elements(reference: str) -> tuple[str, ...]:
    """Raises ValueError when the reference names nothing."""
    wanted = elements(reference)
    if not wanted:
        raise ValueError(f"the reference {reference!r} names no element")
    return wanted


def set_score(reply: str, reference: str, partial: bool = False) -> float:
    """1.0 for the same set, else 0.0; partial: elements in both over elements in either (Jaccard index)."""
    said, wanted = frozenset(elements(reply)), frozenset(reference_elements(reference))
    if partial:
        return len(said & wanted) / len(said | wanted)
    return float(said == wanted)


def list_score(reply: str, reference: str, partial: bool = False) -> float:
    """1.0 for the same list, else 0.0; partial: 1 - edits (insert, delete, replace) over the longer list's length."""
    said, wanted = elements(reply), reference_elements(reference)
    if partial and said != wanted:
        from rapidfuzz.distance import Levenshtein

        return float(Levenshtein.normalized_similarity(said, wanted))
    return float(said == wanted)
