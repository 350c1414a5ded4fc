"""Which worker gets which question: the least loaded, counted in tokens. Pure.

Neighbours: `pool` routes with it.
Invariants: the same batch on the same loads is always split alike, so a run's samples can be reproduced; each worker's
questions keep their order.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from rollout.messages import Prompt, SamplingSpec


def cost(prompt: Prompt, spec: SamplingSpec) -> int:
    """Tokens a question may take: its prompt once, its responses at their longest."""
    return len(prompt.expanded_ids) + spec.samples * spec.max_new_tokens


def spread(costs: Sequence[int], loads: Sequence[int]) -> list[list[int]]:
    """For each worker the indices of its items: each item, in order, to the worker with the least load so far."""
    queue = [(load, worker) for worker, load in enumerate(loads)]
    heapq.heapify(queue)
    shares: list[list[int]] = [[] for _ in loads]
    for index, item in enumerate(costs):
        load, worker = queue[0]
        shares[worker].append(index)
        heapq.heapreplace(queue, (load + item, worker))
    return shares
