"""How much of a transcript is right: the word error rate, through jiwer.

Neighbours: `answer` scores replies to transcript questions with it.
Invariants: pure; case, punctuation and the spelling of small numbers do not count; scripts written without spaces are compared
character by character; jiwer is imported when the first transcript is scored.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from rewards.functions.text import digits_for_words

# Ideographs, kana, Thai, Lao, Khmer, Burmese: no spaces between words.
UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
WORD = re.compile(rf"[{UNSPACED}]|(?:(?![{UNSPACED}])[^\W_])+(?:['’](?:(?![{UNSPACED}])[^\W_])+)*")
GROUPED = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
OPENING = re.compile(
    r"^\W*(?:(?:the\s+)?(?:transcript(?:ion)?|answer)(?:\s+is)?\s*[:=]|"
    r"(?:the\s+)?(?:speaker|voice|person|man|woman|child|he|she|they)\s+(?:says?|said)\s*[:,]?(?=\s*[\"“”'‘]))",
    re.IGNORECASE,
)


def spoken_words(text: str) -> list[str]:
    """The words as they were said: lower case, no punctuation, small numbers as digits."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    return [digits_for_words(word) for word in WORD.findall(GROUPED.sub("", text))]


@lru_cache(maxsize=4096)
def _wanted(reference: str) -> str:
    words = " ".join(spoken_words(reference))
    if not words:
        raise ValueError(f"the reference transcript {reference!r} has no words")
    return words


def word_error_rate(reply: str, reference: str) -> float:
    """Substitutions, deletions and insertions over the reference's words; 0 is perfect, above 1 possible.

    An opening such as `Transcript:` or `The speaker says "` does not count. Raises ValueError for a reference without words.
    """
    import jiwer

    return min(
        jiwer.wer(_wanted(reference), " ".join(spoken_words(said))) for said in {reply, OPENING.sub("", reply, count=1)}
    )


def transcript_score(reply: str, reference: str, max_error_rate: float | None = None) -> float:
    """max(0, 1 - word error rate), or with `max_error_rate` 1.0 up to that rate and 0.0 above it."""
    rate = word_error_rate(reply, reference)
    if max_error_rate is None:
        return max(0.0, 1.0 - rate)
    return float(rate <= max_error_rate + 1e-9)
