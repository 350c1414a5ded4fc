"""What a response is worth that was cut at the token limit (pure).

Neighbours: `reinforce` makes experiences of what is left. Policies: `score` takes the verdict as it is, `zero` pays nothing, `invalid`
leaves the response out of the batch. Invariant: a whole response is never touched; an invalid verdict never trains.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.stages.scoring import Scored

POLICIES = ("score", "zero", "invalid")


def trainable(scored: Sequence[Scored], policy: str) -> list[tuple[Scored, float]]:
    """Responses to train on with their reward, in order. Raises ValueError for an unknown policy."""
    if policy not in POLICIES:
        raise ValueError(f"a truncated response is treated as one of {', '.join(POLICIES)}, not {policy!r}")
    kept = []
    for s in scored:
        if not s.verdict.valid or (policy == "invalid" and not s.sample.finished):
            continue
        cut_off = policy == "zero" and not s.sample.finished
        kept.append((s, 0.0 if cut_off else float(s.verdict.score or 0.0)))
    return kept
