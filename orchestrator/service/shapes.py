"""Demands and machines as whole numbers, ready for counting.

Neighbours: `placement`, `reservation`, `policy` and `wording` count with them. Pure.
Invariants: amounts are in ten-thousandths (as in Ray), so that tenths of a GPU add up; three columns: GPUs, CPUs, memory, the order in
which bundles are sorted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from orchestrator.service.messages import Demand

SCALE = 10_000
GPUS, CPUS, MEMORY = range(3)
Amount = tuple[int, int, int]
Amounts = NDArray[np.int64]  # [machines, 3]


@dataclass(frozen=True, slots=True)
class Shape:
    """A demand made ready for placing. groups: (amounts of one bundle, places in the demand), largest first; whole: sum of all."""

    groups: tuple[tuple[Amount, tuple[int, ...]], ...]
    whole: Amount
    bundles: int

    @property
    def largest(self) -> Amount:
        """The most of each resource that a single bundle asks for."""
        amounts = [amount for amount, _ in self.groups]
        return max(a[0] for a in amounts), max(a[1] for a in amounts), max(a[2] for a in amounts)


@lru_cache(maxsize=16_384)
def shape_of(demand: Demand) -> Shape:
    groups: dict[Amount, list[int]] = {}
    for i, bundle in enumerate(demand.bundles):
        amount = (round(bundle.gpus * SCALE), round(bundle.cpus * SCALE), round(bundle.memory_gib * SCALE))
        groups.setdefault(amount, []).append(i)
    ordered = sorted(groups.items(), reverse=True)
    whole = tuple(sum(amount[r] * len(places) for amount, places in ordered) for r in range(3))
    return Shape(
        groups=tuple((amount, tuple(places)) for amount, places in ordered),
        whole=(whole[0], whole[1], whole[2]),
        bundles=len(demand.bundles),
    )


def amounts(rows: Sequence[tuple[float, float, float]]) -> Amounts:
    """Rounded down, by less than a thousandth of a unit of resolution where floats fall short of a whole one."""
    return np.floor(np.array(rows, dtype=np.float64).reshape(-1, 3) * SCALE + 1e-3).astype(np.int64)
