"""Reasoning as prose: sentences, quoted speech, conclusions.

Neighbours: the functions that read reasoning (grounding, consistency, repetition, language, self_cognition) share this.
Invariants: pure; a full stop inside a number ends nothing; sentences come in order, with the mark that ends them.
"""

from __future__ import annotations

import re

_END = re.compile(
    r"(?<=[.!?…])(?<!\bapprox\.)(?<!\bca\.)(?<!\bvs\.)(?<!\be\.g\.)(?<!\bi\.e\.)[\"'”’)\]]*\s+|(?<=[。！？])|\n+"
)
_BULLET = re.compile(r"^\s*(?:[-*•]|\(?\d{1,2}[.)])\s+")
_QUOTED = re.compile(
    r"\"[^\"\n]*\"|“[^”\n]*”|«[^»\n]*»|「[^」\n]*」|(?<![\w])'[^'\n]{2,}'(?![\w])|(?<![\w])‘[^’\n]{2,}’(?![\w])"
)
CONCLUSION = re.compile(
    r"^\W*(?:(?:so|therefore|thus|hence|consequently|accordingly|in\s+conclusion|to\s+conclude|in\s+summary|overall|all\s+in\s+all|"
    r"this\s+(?:means|suggests|implies|indicates|tells\s+me)|that\s+means|(?:i|we)\s+(?:can\s+)?conclude|which\s+means)\b|"
    r"(?:the|my)\s+(?:final\s+|correct\s+|right\s+|best\s+)?(?:answer|choice|option)\b)",
    re.IGNORECASE,
)


def sentences(text: str) -> list[str]:
    """Sentences and list items, stripped, with their end marks; parts without a letter or digit are left out."""
    parts = (_BULLET.sub("", part).strip() for part in _END.split(text))
    return [part for part in parts if any(character.isalnum() for character in part)]


def unquoted(text: str) -> str:
    """The text with quoted speech cut out: what somebody in the clip says is no statement of the model's."""
    return _QUOTED.sub(" … ", text)


def is_conclusion(sentence: str) -> bool:
    """Whether the sentence draws the answer instead of stating what is heard."""
    return CONCLUSION.match(sentence) is not None
