"""The word lists of reward functions, kept as data in `data/`.

Neighbours: `grounding` looks for perceptual terms, `statements` for what is counted, `cognition` for denials.
Invariants: a file's digest stands here, so that a changed list is a changed version of every function that reads it; a file
that differs from its digest is refused, never used.
"""

from __future__ import annotations

import hashlib
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"
# After a change of a list: `sha256sum rewards/functions/data/*.json`.
DIGESTS = {
    "perceptual_terms.json": "38a264129dd2842574aa25650a7454130c3a070e8dfe00f08e0820f55f317ae1",
    "self_cognition.json": "5c10c51210120cad8f0284514f553d87513294368db6767d4ed83e9219bcf145",
}


def digest_of(name: str) -> str:
    """sha256 (hex) of a list as it lies on disk."""
    return hashlib.sha256((DATA / name).read_bytes()).hexdigest()


@lru_cache(maxsize=len(DIGESTS))
def load(name: str) -> dict[str, Any]:
    """A list. Raises ValueError when its content is not the one that the digest here names, OSError when it is missing."""
    content = (DATA / name).read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != DIGESTS[name]:
        raise ValueError(
            f"{DATA / name} has the digest {found}, lexicon.py names {DIGESTS[name]}; "
            "restore the file, or write its digest there (rewards that read it then get a new version)"
        )
    return json.loads(content)


@lru_cache(maxsize=1)
def event_nouns() -> frozenset[str]:
    """Nouns (singular) for single sounds, as in `three knocks`."""
    return frozenset(load("perceptual_terms.json")["event_nouns"])


@lru_cache(maxsize=16)
def _terms(extra: tuple[str, ...]) -> re.Pattern[str]:
    words = [term for group in load("perceptual_terms.json")["terms"].values() for term in group]
    forms = (_form(term) for term in sorted({*words, *extra}, key=lambda term: (-len(term), term)))
    return re.compile(rf"(?<![\w'])(?:{'|'.join(forms)})(?![\w])", re.IGNORECASE)


def _form(term: str) -> str:
    return r"[\s-]+".join(re.escape(word).replace(r"\*", r"\w*") for word in term.split())


def perceptual_terms(text: str, extra: tuple[str, ...] = ()) -> list[str]:
    """Every word or phrase of the text that says how something sounds, lower case, in order; extra: further terms."""
    return [match.group().casefold() for match in _terms(extra).finditer(text)]
