"""Drops responses that say what another response to the same question says already.

Neighbours: `chains` calls it after the filters. Invariants: pure; the first of equal responses stays and the order is kept;
responses to different questions are never compared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from rapidfuzz import fuzz

from orchestrator.errors import ConfigError
from orchestrator.stages.scoring import Scored
from rewards.functions.text import normalise

DUPLICATE, NEAR_DUPLICATE = "duplicate", "near_duplicate"


@dataclass(frozen=True, slots=True)
class Deduplicated:
    """kept: in the order they came; dropped: why the others went, by trajectory id."""

    kept: tuple[Scored, ...]
    dropped: dict[str, str]


def said(scored: Scored) -> str:
    """Reasoning and reply as they are compared: without case, articles, punctuation and spacing."""
    return f"{normalise(scored.sample.reasoning)}\n{normalise(scored.sample.reply)}"


def similarity(one: str, other: str) -> float:
    """0..1: the share of characters that an edit of one into the other keeps (Indel ratio)."""
    return fuzz.ratio(one, other) / 100


def dedupe(items: Sequence[Scored], near: float = 1.0) -> Deduplicated:
    """near: similarity from which two different responses to a question count as the same; 1 drops exact duplicates only.

    Raises ConfigError for a similarity outside 0..1.
    """
    if not 0.0 < near <= 1.0:
        raise ConfigError(f"near duplicates are told by a similarity above 0 and at most 1, got {near}")
    seen: dict[str, dict[str, None]] = defaultdict(dict)
    dropped = {}
    kept = []
    for item in items:
        before = seen[item.question.id]
        text = said(item)
        if text in before:
            dropped[item.trajectory.id] = DUPLICATE
        elif near < 1.0 and any(similarity(text, other) >= near for other in before):
            dropped[item.trajectory.id] = NEAR_DUPLICATE
        else:
            before[text] = None
            kept.append(item)
    return Deduplicated(tuple(kept), dropped)
