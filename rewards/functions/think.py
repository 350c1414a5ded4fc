"""Does the response think, as long as wanted, in the agreed form? None of these looks at what is said.

Neighbours: `rewards.parse` has split the response already.
Invariant: scores lie in 0..1; only the penalties of `think_length` may lie below. Without the reward for thinking, reasoning
collapses (Step-Audio-R1, section 5: from 3,000 tokens to under 1,500 by update 60).
"""

from __future__ import annotations

import math
import re

from rewards.messages import Sample
from rewards.registry import reward

# Marks of the chat template, and of think blocks as other models write them: a turn or block of its own, not a reply.
FOREIGN = re.compile(r"<\|[^|<>\s]{1,40}\|>|</?(?:think(?:ing)?|thought|reason(?:ing)?|reflection)\s*>", re.IGNORECASE)


@reward("think_present")
def think_present(sample: Sample) -> float:
    """1.0 when the response opens with one closed think block that has at least one letter or digit in it."""
    return float(sample.well_formed and any(character.isalnum() for character in sample.reasoning))


def check_band(
    *,
    low: int,
    high: int,
    edge: int,
    collapse: int = 0,
    collapse_score: float = 0.0,
    over: int = 0,
    over_score: float = 0.0,
) -> None:
    """Raises ValueError unless 0 <= collapse <= low <= high <= over (0: off), edge >= 0 and both penalties are finite, at most 0."""
    if not 0 <= low <= high:
        raise ValueError(f"the band needs 0 <= low <= high, got low={low}, high={high}")
    if edge < 0:
        raise ValueError(f"edge must be 0 tokens or more, got {edge}")
    if not 0 <= collapse <= low:
        raise ValueError(f"collapse lies between 0 and low={low} tokens, got {collapse}")
    if over and over < high:
        raise ValueError(f"over is 0 (off) or at least high={high} tokens, got {over}")
    for name, score in (("collapse_score", collapse_score), ("over_score", over_score)):
        if not (math.isfinite(score) and score <= 0.0):
            raise ValueError(f"{name} is a penalty, finite and at most 0, got {score}")


@reward("think_length", check=check_band)
def think_length(
    sample: Sample,
    *,
    low: int = 8,
    high: int = 64,
    edge: int = 8,
    collapse: int = 0,
    collapse_score: float = 0.0,
    over: int = 0,
    over_score: float = 0.0,
) -> float:
    """1.0 when the reasoning has low..high tokens, falling in a straight line to 0.0 at `edge` tokens outside the band.

    Reasoning of fewer than `collapse` tokens scores `collapse_score`, of more than `over` tokens `over_score` (0 tokens: no such
    limit), both at most 0; these two are steps. Absent reasoning counts as 0 tokens. Reasoning that is not in one closed
    block scores no more than 0.0.
    """
    length = sample.reasoning_tokens if sample.reasoning else 0
    if length < collapse:
        return float(collapse_score)
    if over and length > over:
        return float(over_score)
    if not sample.well_formed or not sample.reasoning:
        return 0.0
    outside = max(low - length, length - high, 0)
    if outside == 0:
        return 1.0
    return max(0.0, 1.0 - outside / edge) if edge else 0.0


@reward("format")
def response_format(sample: Sample) -> float:
    """1.0 for one think block (it may be empty) at the start, a reply after it, and an end within the token limit.

    Marks of another turn (`<|BOT|>`) or of another kind of block (`<thinking>`) in reasoning or reply make it 0.0.
    """
    if not (sample.well_formed and sample.reply and sample.finished):
        return 0.0
    return float(FOREIGN.search(sample.reasoning) is None and FOREIGN.search(sample.reply) is None)
