"""Which machines are held for an experiment that has waited long for room.

Neighbours: `policy` decides for whom and hides what is held from those behind. Pure, arrays as in `placement`.
Invariants: what is held fits the machines when they are empty, beside what is held already; holdings stay where they were unless other
machines miss less, so what is missing only shrinks while nobody starts on them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from orchestrator.service.placement import place_shape, placed_amounts
from orchestrator.service.shapes import Amounts, Shape


def rows_to_hold(shape: Shape, free: Amounts, room: Amounts, before: Sequence[int] | None) -> list[int] | None:
    """The machine for each bundle, in the demand's order; None when it does not fit beside what is held already.

    free: what nobody holds; room: all that the machines have, less what is held for others; before: the rows of the round before.
    """
    best = _least_missing(shape, free, room) or place_shape(shape, room)
    if best is None:
        return None
    if before is not None and _fits(shape, before, room) and missing(shape, before, free) <= missing(shape, best, free):
        return list(before)
    return best


def missing(shape: Shape, rows: Sequence[int], free: Amounts) -> tuple[int, ...]:
    """What must still come free on these machines: GPUs, CPUs, memory."""
    lacking = np.maximum(placed_amounts(shape, rows, len(free)) - free, 0).sum(axis=0)
    return tuple(int(amount) for amount in lacking)


def _fits(shape: Shape, rows: Sequence[int], room: Amounts) -> bool:
    return len(rows) == shape.bundles and bool((placed_amounts(shape, rows, len(room)) <= room).all())


def _least_missing(shape: Shape, free: Amounts, room: Amounts) -> list[int] | None:
    """Bundle by bundle, where it adds least to what is missing; ties to the machine that holds most already, then to the first."""
    left_free, left_room = free.copy(), room.copy()
    bundles_on = np.zeros(len(free), dtype=np.int64)
    rows = [-1] * shape.bundles
    for amount, places in shape.groups:
        need = np.array(amount)
        for i in places:
            able = np.flatnonzero((left_room >= need).all(axis=1))
            if not len(able):
                return None
            short = np.minimum(np.maximum(need - left_free[able], 0), need)
            row = int(able[np.lexsort((-bundles_on[able], short[:, 2], short[:, 1], short[:, 0]))[0]])
            left_free[row] -= need
            left_room[row] -= need
            bundles_on[row] += 1
            rows[i] = row
    return rows
