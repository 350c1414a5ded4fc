"""The pure part of every stage: which questions, in which order, which are kept.

Neighbours: `stages.sft`, `stages.select`, `stages.evaluate`. Invariants: no I/O; the same arguments give the same plan.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence


def balanced(tasks: Sequence[str], count: int, seed: int) -> list[int]:
    """Indices of `count` items drawn round-robin over the tasks, shuffled within each (fewer when there are fewer items)."""
    by_task: dict[str, list[int]] = defaultdict(list)
    for index, task in enumerate(tasks):
        by_task[task].append(index)
    rng = random.Random(seed)
    queues = []
    for task in sorted(by_task):
        rng.shuffle(by_task[task])
        queues.append(by_task[task])
    chosen: list[int] = []
    depth = 0
    while len(chosen) < count and any(depth < len(queue) for queue in queues):
        chosen += [queue[depth] for queue in queues if depth < len(queue)]
        depth += 1
    return chosen[:count]


def batches(items: int, batch: int, steps: int, seed: int) -> list[list[int]]:
    """`steps` batches of indices below `items`: every epoch is a fresh permutation, an epoch's rest joins the next."""
    if items < 1:
        raise ValueError("batches need at least one item")
    rng = random.Random(seed)
    queue: list[int] = []
    out: list[list[int]] = []
    for _ in range(steps):
        while len(queue) < batch:
            epoch = list(range(items))
            rng.shuffle(epoch)
            queue += epoch
        out.append(queue[:batch])
        queue = queue[batch:]
    return out


def keep_middling(correct_counts: Mapping[str, int], keep_min: int, keep_max: int) -> list[str]:
    """Question ids answered correctly keep_min..keep_max times, in sorted order (Step-Audio-R1, section 4.3: 3..6 of 8)."""
    return sorted(name for name, count in correct_counts.items() if keep_min <= count <= keep_max)


def histogram(correct_counts: Mapping[str, int], samples: int) -> list[int]:
    """How many questions were answered correctly 0, 1, …, `samples` times."""
    out = [0] * (samples + 1)
    for count in correct_counts.values():
        out[count] += 1
    return out


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error (0 for fewer than two values; NaN mean for none)."""
    if not values:
        return math.nan, 0.0
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, 0.0
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))
