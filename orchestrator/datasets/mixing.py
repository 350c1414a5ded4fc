"""Batches from several sources, mixed by tokens: what share of the trained tokens comes from which source.

Neighbours: the stages that fine-tune give the lengths of their responses and take the batches (Step-Audio-R1, section 4.1: text and
audio examples in one loss). Invariants: pure; a shorter plan is a prefix of a longer one, so that a stage can go on where it was;
within an epoch of a source no index comes twice.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence

from orchestrator.seeds import derive


def token_mixed_batches(
    lengths: Mapping[str, Sequence[int]], weights: Mapping[str, float], *, batch: int, steps: int, seed: int
) -> list[list[tuple[str, int]]]:
    """`steps` batches of `batch` items (source, index), the sources' shares of the tokens as close to `weights` as items allow.

    lengths: response tokens of every item, by source; weights: relative shares by source, 0 leaves a source out. The next item
    always comes from the source that is furthest behind its share (fair queueing), so for any two sources a, b at any time
    |tokens_a / weight_a - tokens_b / weight_b| <= max(longest_a / weight_a, longest_b / weight_b): shares converge as 1 / steps.
    Each source is passed epoch by epoch in fresh permutations. Raises ValueError for a source without weight or the reverse,
    weights that are negative, not finite or all zero, a weighted source without items, and an item without tokens.
    """
    _check(lengths, weights, batch, steps)
    used = {name: 0.0 for name in sorted(weights) if weights[name] > 0}
    indices = {name: _epochs(len(lengths[name]), derive(seed, "mixing", name)) for name in used}
    out: list[list[tuple[str, int]]] = []
    for _ in range(steps):
        chosen: list[tuple[str, int]] = []
        for _ in range(batch):
            name = min(used, key=lambda source: used[source] / weights[source])
            index = next(indices[name])
            used[name] += lengths[name][index]
            chosen.append((name, index))
        out.append(chosen)
    return out


def usable_shares(
    shares: Mapping[str, float], items: Mapping[str, Sequence[object]]
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Shares of the sources that have both a share and items, and the names of those that have a share but no items.

    Where one is missing, the others' shares are scaled to the sum of all again; else they are handed back as they are.
    """
    wanted = {name: share for name, share in shares.items() if share > 0}
    missing = tuple(name for name in wanted if not items.get(name))
    usable = {name: share for name, share in wanted.items() if name not in missing}
    if not missing or not usable:
        return usable, missing
    scale = sum(wanted.values()) / sum(usable.values())
    return {name: share * scale for name, share in usable.items()}, missing


def _epochs(items: int, seed: int) -> Iterator[int]:
    rng = random.Random(seed)
    order = list(range(items))
    while True:
        rng.shuffle(order)
        yield from list(order)


def _check(lengths: Mapping[str, Sequence[int]], weights: Mapping[str, float], batch: int, steps: int) -> None:
    if batch < 1 or steps < 0:
        raise ValueError(f"a plan needs batches of at least 1 and 0 or more steps, got batch={batch}, steps={steps}")
    unknown, unweighted = sorted(set(weights) - set(lengths)), sorted(set(lengths) - set(weights))
    if unknown:
        raise ValueError(f"weights name {', '.join(unknown)}; the sources are {', '.join(sorted(lengths)) or 'none'}")
    if unweighted:
        raise ValueError(f"no weight for {', '.join(unweighted)}; give 0 to leave a source out")
    bad = [f"{name}={weight}" for name, weight in weights.items() if not (math.isfinite(weight) and weight >= 0)]
    if bad:
        raise ValueError(f"weights must be finite and 0 or more: {', '.join(bad)}")
    if not any(weights.values()):
        raise ValueError("all weights are 0; give at least one source a share")
    for name, weight in weights.items():
        if weight and not lengths[name]:
            raise ValueError(f"the source {name} has weight {weight} but no items; give it items or weight 0")
        if weight and min(lengths[name]) < 1:
            raise ValueError(f"the source {name} has an item without tokens")
