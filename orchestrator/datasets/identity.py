"""What makes two questions the same to a model, whatever they are called.

Neighbours: `parts` keeps token ids by it, `overlaps` finds questions that are both trained on and held out. Invariants: pure; ids,
answers, truth and paths of clips play no part.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from rollout.messages import AudioRef, Question


def prompt_digest(question: Question) -> str:
    """SHA-256, as hex, of all that decides the prompt's tokens and features: words, choices, earlier turns, digests of the clips
    by turn. Clips must have been examined: two that lack a digest can't be told apart."""
    turns = [[turn.role, turn.text, _digests(turn.audio)] for turn in question.history]
    asked = [question.prompt, question.choices, turns, _digests(question.audio)]
    return hashlib.sha256(json.dumps(asked, ensure_ascii=False).encode()).hexdigest()


def _digests(clips: Sequence[AudioRef]) -> list[str]:
    return [clip.sha256 for clip in clips]
