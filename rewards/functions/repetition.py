"""Does the response go round in circles? 1.0 when it says things once, 0.0 when most of it has been said before.

Neighbours: `prose` splits sentences. Repetition is what a policy falls into when length is rewarded alone.
Invariants: pure, scores in 0..1; text that repeats nothing scores 1.0, and saying the same text again never raises the score;
numbers are never the same phrase, so that honest lists (`0.2 s, 0.7 s, 1.2 s`) are no loops, until one goes on and on.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence

from rewards.functions.prose import sentences
from rewards.messages import Sample
from rewards.registry import reward

CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
NUMBER = r"[+\-−]?\d+(?:[.,:]\d+)*(?:\s*(?:k?hz|db|ms|s|bpm|%))?(?![\w])"
TOKEN = re.compile(rf"{NUMBER}|[{CJK}]|[^\W_{CJK}]+(?:['’-][^\W_]+)*", re.IGNORECASE)
STUTTER = re.compile(r"(\S{1,12}?)\1{7,}")  # `hahahahahahahaha`: the same letters eight times in a row
LIST_LIMIT = 24  # the same number may stand in a list this often, e.g. equal notes
PARTS = ("reasoning", "reply", "both")


def check_repetition(ngram: int, threshold: float, limit: float, part: str) -> None:
    """Raises ValueError for a phrase of no words, thresholds out of order or an unknown part."""
    if ngram < 1:
        raise ValueError(f"ngram is 1 word or more, got {ngram}")
    if not 0.0 <= threshold < limit <= 1.0:
        raise ValueError(f"it needs 0 <= threshold < limit <= 1, got threshold={threshold}, limit={limit}")
    if part not in PARTS:
        raise ValueError(f"part is one of {', '.join(PARTS)}, not {part!r}")


@reward("repetition", check=check_repetition)
def repetition(
    sample: Sample, *, ngram: int = 4, threshold: float = 0.2, limit: float = 0.6, part: str = "both"
) -> dict[str, float]:
    """1.0 up to a repeated share of `threshold`, falling in a straight line to 0.0 at `limit`; the part `share` is that share.

    The repeated share is the largest of: phrases of `ngram` words said before, sentences or lines said before (by words),
    characters in a stutter. `both` takes the worse of reasoning and reply. Nothing said repeats nothing: 1.0.
    """
    texts = {"reasoning": [sample.reasoning], "reply": [sample.reply], "both": [sample.reasoning, sample.reply]}[part]
    share = max(repeated_share(text, ngram) for text in texts)
    return {"score": min(1.0, max(0.0, (limit - share) / (limit - threshold))), "share": share}


def repeated_share(text: str, ngram: int = 4) -> float:
    """0..1: how much of the text repeats what it has said before."""
    words = _words(text)
    if not words:
        return 0.0
    return max(_phrases(words, min(ngram, len(words))), _sentences(text), _stutter(text), _single(words))


def _words(text: str) -> list[str]:
    return [re.sub(r"\s+", "", match.group()).casefold() for match in TOKEN.finditer(text)]


def _is_number(word: str) -> bool:
    return any(character.isdigit() for character in word[:2])


def _repeats(items: Sequence[tuple[str, ...]]) -> list[int]:
    """How often each item that occurs is said again."""
    counts = Counter(items)
    return [count - (LIST_LIMIT if all(map(_is_number, item)) else 1) for item, count in counts.items()]


def _phrases(words: Sequence[str], ngram: int) -> float:
    phrases = [tuple(words[i : i + ngram]) for i in range(len(words) - ngram + 1)]
    return sum(extra for extra in _repeats(phrases) if extra > 0) / len(phrases)


def _single(words: Sequence[str]) -> float:
    """`dog dog dog dog`: a word that follows itself twice and more."""
    runs, again = 0, 0
    for before, word in itertools.pairwise(words):
        again = again + 1 if word == before and not _is_number(word) else 0
        runs += again >= 2
    return runs / len(words)


def _sentences(text: str) -> float:
    """Share of the words that stand in a sentence or line said before."""
    said: set[tuple[str, ...]] = set()
    again, total = 0, 0
    for sentence in sentences(text):
        words = tuple(_words(sentence))
        if not words or all(map(_is_number, words)):
            continue
        total += len(words)
        again += len(words) if words in said else 0
        said.add(words)
    return again / total if total else 0.0


def _stutter(text: str) -> float:
    """Share of the characters that a run of the same letters spends."""
    letters = sum(not character.isspace() for character in text)
    spent = sum(len(m.group()) - len(m[1]) for m in STUTTER.finditer(text) if any(c.isalnum() for c in m[1]))
    return spent / letters if letters else 0.0
