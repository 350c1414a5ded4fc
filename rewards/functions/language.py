"""Is the response in the wanted language?

Neighbours: `prose` splits sentences; py3langid judges them (imported on first use, 0.9 s and 250 MB of address space).
Invariants: scores in 0..1; letters of a script that the language is not written in count against it even in short text; text
that is too short, or numbers alone, is not judged.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import Any

from rewards.functions.prose import sentences, unquoted
from rewards.messages import Sample
from rewards.registry import reward

SCRIPTS = {
    "zh": ("CJK",), "ja": ("CJK", "HIRAGANA", "KATAKANA"), "ko": ("HANGUL", "CJK"), "ru": ("CYRILLIC",), "uk": ("CYRILLIC",),
    "bg": ("CYRILLIC",), "sr": ("CYRILLIC", "LATIN"), "el": ("GREEK",), "ar": ("ARABIC",), "fa": ("ARABIC",), "ur": ("ARABIC",),
    "he": ("HEBREW",), "hi": ("DEVANAGARI",), "th": ("THAI",),
}  # fmt: skip
LATIN = ("LATIN",)
DENSE = frozenset({"CJK", "HIRAGANA", "KATAKANA", "HANGUL"})
DENSE_LETTERS = 3  # a character of these scripts says as much as three letters
OWN_SHARE = 0.5  # of a sentence's letters; below, it is written in another script
CLOSE = 0.1  # the wanted language may be this much less likely than the best one: relatives and short sentences
PARTS = ("reasoning", "reply", "both")


def prepare_scoring() -> None:
    """What a scoring process does on starting, so that the first sample is as quick as the others."""
    _identifier()


def check_language(language: str, part: str, min_letters: int, short: float | None) -> None:
    """Raises ValueError for a code that py3langid does not know, an unknown part, or a score for short text outside 0..1."""
    if part not in PARTS:
        raise ValueError(f"part is one of {', '.join(PARTS)}, not {part!r}")
    if min_letters < 1:
        raise ValueError(f"min_letters is 1 or more, got {min_letters}")
    if short is not None and not 0.0 <= short <= 1.0:
        raise ValueError(f"short lies in 0..1, or is null for an invalid verdict; got {short}")
    if not language.islower() or language not in _identifier().labels:
        raise ValueError(f"language is an ISO 639 code that py3langid knows, e.g. en or zh, not {language!r}")


@reward("language", check=check_language)
def language(
    sample: Sample, *, language: str = "en", part: str = "both", min_letters: int = 12, short: float | None = 1.0
) -> dict[str, float] | float | None:
    """Share of the text (by letters) whose sentences are in `language`; the part `judged` is the number of sentences judged.

    A sentence of fewer than `min_letters` letters is judged together with the next ones; what is then still too short is only
    judged by its script. Quoted speech is left out. Nothing to judge gives `short`: 1.0, since numbers or one word break no rule;
    null makes it invalid.
    """
    texts = {"reasoning": [sample.reasoning], "reply": [sample.reply], "both": [sample.reasoning, sample.reply]}[part]
    right = total = judged = 0
    for text in texts:
        for passage in passages(unquoted(text), min_letters):
            holds = in_language(passage, language, min_letters)
            if holds is not None:
                judged += 1
                total += letters(passage)
                right += letters(passage) if holds else 0
    if not judged:
        return None if short is None else {"score": short, "judged": 0.0}
    return {"score": right / total, "judged": float(judged)}


def script_of(character: str) -> str:
    """`LATIN`, `CJK`, ... by the character's Unicode name; "" for what is no letter."""
    if not character.isalpha():
        return ""
    return unicodedata.name(character, "").partition(" ")[0].removesuffix("-COMPATIBILITY") or "UNKNOWN"


def letters(text: str) -> int:
    """Letters, those of dense scripts three times."""
    return sum(DENSE_LETTERS if script_of(c) in DENSE else 1 for c in text if c.isalpha())


def passages(text: str, min_letters: int) -> list[str]:
    """Sentences in order, short ones joined with what follows while both are in the same script; the rest joins the last one."""
    found: list[str] = []
    for sentence in sentences(text):
        short = found and (letters(found[-1]) < min_letters or letters(sentence) < min_letters)
        if short and _main_script(found[-1]) == _main_script(sentence):
            found[-1] += " " + sentence
        else:
            found.append(sentence)
    return found


def in_language(passage: str, language: str, min_letters: int) -> bool | None:
    """None when the passage is too short to tell and its script fits, or has no letters."""
    own = SCRIPTS.get(language, LATIN)
    total = letters(passage)
    if total == 0:
        return None
    fitting = sum(letters(character) for character in passage if script_of(character) in own)
    if fitting < OWN_SHARE * total:
        return False
    if total < min_letters:
        return None
    if language == "zh" and any(script_of(character) in ("HIRAGANA", "KATAKANA") for character in passage):
        return False
    ranked = dict(_identifier().rank(passage))
    return bool(ranked.get(language, 0.0) >= CLOSE * max(ranked.values()))


def _main_script(text: str) -> str:
    counts: dict[str, int] = {}
    for character in text:
        if script := script_of(character):
            counts[script] = counts.get(script, 0) + 1
    return max(counts, key=lambda script: counts[script], default="")


@lru_cache(maxsize=1)
def _identifier() -> Any:
    """py3langid with its own model, read in memory: its reader goes through a temporary file, which a scoring process can't make."""
    import io
    import lzma
    from array import array

    import numpy as np
    from py3langid.langid import MODEL_DIR, MODEL_FILE, LanguageIdentifier

    with lzma.open(MODEL_DIR / MODEL_FILE) as packed, np.load(io.BytesIO(packed.read()), allow_pickle=False) as model:
        moves, rows = (
            array({2: "H", 4: "I", 8: "L"}[part.itemsize], part.tobytes())
            for part in (model["nextmove"], model["nextmove_row"])
        )
        return LanguageIdentifier(
            model["ptc"],
            model["pc"],
            model["classes"].tolist(),
            moves,
            model["out_feat"].tolist(),
            norm_probs=True,
            tk_row=rows,
        )
