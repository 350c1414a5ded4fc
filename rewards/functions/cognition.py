"""Does the model own up to hearing? A reply such as `as a text model I cannot hear` is an error of self-cognition.

Neighbours: `lexicon` holds the patterns, `prose` the sentences. Source: Step-Audio-R1, section 6.3, where such replies are
filtered out and preferred against.
Invariants: pure; what somebody in the clip says, and what is not audible in it (`I cannot hear a dog, but a violin`), is no
denial.
"""

from __future__ import annotations

import re
from functools import lru_cache

from rewards.functions.lexicon import load
from rewards.functions.prose import sentences, unquoted
from rewards.messages import Sample
from rewards.registry import reward

PARTS = ("reasoning", "reply", "both")
NAME = re.compile(r"<([A-Z]+)>")
REPORTED = re.compile(
    r"\b(?:says|said|saying|asks|asked|shouts|shouting|sings|singing|announces|tells|telling|complains|whispers|repeats|speaker|"
    r"caller|lyrics|singer|man|woman|voice|he|she|they)\b[^.;]{0,40}$"
)


def prepare_scoring() -> None:
    """What a scoring process does on starting, so that the first sample is as quick as the others."""
    _patterns()


def check_part(part: str) -> None:
    """Raises ValueError for an unknown part."""
    if part not in PARTS:
        raise ValueError(f"part is one of {', '.join(PARTS)}, not {part!r}")


@reward("self_cognition", check=check_part)
def self_cognition(sample: Sample, *, part: str = "both") -> dict[str, float]:
    """1.0 when the response nowhere denies hearing, else 0.0; the part `denials` is the number of sentences that do."""
    texts = {"reasoning": [sample.reasoning], "reply": [sample.reply], "both": [sample.reasoning, sample.reply]}[part]
    found = sum(len(denials(text)) for text in texts)
    return {"score": float(found == 0), "denials": float(found)}


def denials(text: str) -> list[tuple[str, str]]:
    """(kind, sentence) of every sentence that denies hearing; kinds are those of `data/self_cognition.json`."""
    found = []
    for sentence in sentences(unquoted(text)):
        plain = re.sub(r"\s+", " ", sentence.casefold().replace("’", "'")).strip()
        for kind, pattern in _patterns():
            match = pattern.search(plain)
            if match is not None and not REPORTED.search(plain[: match.start()]):
                found.append((kind, sentence))
                break
    return found


@lru_cache(maxsize=1)
def _patterns() -> list[tuple[str, re.Pattern[str]]]:
    data = load("self_cognition.json")
    parts: dict[str, str] = data["parts"]

    def filled(text: str) -> str:
        while NAME.search(text):
            text = NAME.sub(lambda match: parts[match[1]], text)
        return text

    return [(kind, re.compile("|".join(map(filled, patterns)))) for kind, patterns in data["denials"].items()]
