"""How the evaluators of the benchmarks MMAU and MMAR decide whether a prediction is right.

Source of the rule: `evaluation.py` of Sakshi113/MMAU and `code/evaluation.py` of ddlBoJack/MMAR; both match in the same way.
Neighbours: `answer` follows it with `rules: mmau` or `rules: mmar`, so that a score compares with published ones.
Invariants: pure; nothing is added to the rule, its gaps included (letters are words, "not a dog" names the dog).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

RULES = ("mmau", "mmar")
WORD = re.compile(r"\w+")


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
