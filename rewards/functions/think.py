"""Does the response think, as long as wanted, in the agreed form? None of these looks at what is said.

Neighbours: `rewards.parse` has split the response already.
Invariant: scores lie in 0..1. Without the reward for thinking, reasoning collapses (Step-Audio-R1, section 5: from 3,000
tokens to under 1,500 by update 60).
"""

from __future__ import annotations

from rewards.messages import Sample
from rewards.registry import reward


@reward("think_present")
def think_present(sample: Sample) -> float:
    """1.0 when the response opens with one closed think block that has at least one letter or digit in it."""
    return float(sample.well_formed and any(character.isalnum() for character in sample.reasoning))


def check_band(low: int, high: int, edge: int) -> None:
    """Raises ValueError unless 0 <= low <= high and edge >= 0."""
    if not 0 <= low <= high:
        raise ValueError(f"the band needs 0 <= low <= high, got low={low}, high={high}")
    if edge < 0:
        raise ValueError(f"edge must be 0 tokens or more, got {edge}")


@reward("think_length", check=check_band)
def think_length(sample: Sample, *, low: int = 8, high: int = 64, edge: int = 8) -> float:
    """1.0 when the reasoning has low..high tokens, falling in a straight line to 0.0 at `edge` tokens outside the band.

    Reasoning that is absent, or not in one closed block, scores 0.0.
    """
    length = sample.reasoning_tokens
    if not sample.well_formed or not sample.reasoning:
        return 0.0
    outside = max(low - length, length - high, 0)
    if outside == 0:
        return 1.0
    return max(0.0, 1.0 - outside / edge) if edge else 0.0


@reward("format")
def response_format(sample: Sample) -> float:
    """1.0 for one think block (it may be empty) at the start, a reply after it, and an end within the token limit."""
    return float(sample.well_formed and bool(sample.reply) and sample.finished)
