"""Where the processes of one experiment go: gang placement on machines, all bundles or none.

Neighbours: `policy` asks it for every experiment that may start, intake asks `never_fits` before it takes one in. Pure: no I/O.
Invariants: a placement never asks more of a machine than it has; equal input gives equal output, whatever the order of the machines;
amounts are compared in ten-thousandths (as Ray does), so that tenths of a GPU add up.

Two ways to place. PACK, the default: the whole gang on one machine where one has room, on the tightest such machine; else machine by
machine, each time the one that takes most of what is left, bundles in decreasing order (GPUs, then CPUs, then memory), ties to a
machine that already has a part of this gang, then to the tightest, then to the first by name. Ranks stay near each other, and whole
machines stay whole for gangs to come. Where that finds nothing, best fit bundle by bundle is tried. SPREAD: every bundle on the machine
with the fewest bundles of this gang, then the most free: one lost machine takes few of them along, and gangs to come find fewer
machines whole. Where it finds nothing, PACK is tried: so that what can run at all is the same for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from orchestrator.service import wording
from orchestrator.service.messages import Bundle, Demand
from orchestrator.service.shapes import Amounts, Shape, amounts, shape_of


class Strategy(StrEnum):
    """How a gang that fits in several ways is laid out; the names are Ray's."""

    PACK = "PACK"
    SPREAD = "SPREAD"


@dataclass(frozen=True, slots=True)
class Node:
    """A machine as it is now. cpus, gpus, memory_gib: all it has; free_…: what nobody holds, also nobody who is starting."""

    id: str
    cpus: float
    gpus: float
    memory_gib: float
    free_cpus: float
    free_gpus: float
    free_memory_gib: float

    @classmethod
    def empty(cls, id: str, *, cpus: float = 0.0, gpus: float = 0.0, memory_gib: float = 0.0) -> Node:
        return cls(id, cpus, gpus, memory_gib, cpus, gpus, memory_gib)


def place(demand: Demand, nodes: Sequence[Node], strategy: Strategy = Strategy.PACK) -> tuple[str, ...] | None:
    """The machine of each bundle, in the demand's order; None when they don't all fit into what is free now."""
    ordered = sorted(nodes, key=lambda node: node.id)
    where = place_shape(shape_of(demand), free_amounts(ordered), strategy)
    return None if where is None else tuple(ordered[i].id for i in where)


def never_fits(demand: Demand, nodes: Sequence[Node]) -> str:
    """Why this can't run on these machines even when they are empty; "" when it can."""
    ordered = sorted(nodes, key=lambda node: node.id)
    shape = shape_of(demand)
    if place_shape(shape, total_amounts(ordered)) is not None:
        return ""
    return wording.never(shape, total_amounts(ordered))


def hold(nodes: Sequence[Node], demand: Demand, where: Sequence[str]) -> list[Node]:
    """The machines with `demand` taken from what is free, bundle i from machine `where[i]`; never below nothing."""
    taken: dict[str, list[Bundle]] = {}
    for bundle, id in zip(demand.bundles, where, strict=True):
        taken.setdefault(id, []).append(bundle)
    return [_less(node, taken.get(node.id, [])) for node in nodes]


def _less(node: Node, bundles: Sequence[Bundle]) -> Node:
    return replace(
        node,
        free_cpus=max(0.0, node.free_cpus - sum(b.cpus for b in bundles)),
        free_gpus=max(0.0, node.free_gpus - sum(b.gpus for b in bundles)),
        free_memory_gib=max(0.0, node.free_memory_gib - sum(b.memory_gib for b in bundles)),
    )


def free_amounts(nodes: Sequence[Node]) -> Amounts:
    return amounts([(n.free_gpus, n.free_cpus, n.free_memory_gib) for n in nodes])


def total_amounts(nodes: Sequence[Node]) -> Amounts:
    return amounts([(n.gpus, n.cpus, n.memory_gib) for n in nodes])


def place_shape(shape: Shape, free: Amounts, strategy: Strategy = Strategy.PACK) -> list[int] | None:
    """The row of each bundle's machine, in the demand's order; `free` is left as it is. Machines are rows sorted by name."""
    if shape.bundles == 0:
        return []
    if len(free) == 0 or bool((free.sum(axis=0) < shape.whole).any()):
        return None
    if strategy is Strategy.SPREAD and (where := _spread(shape, free)) is not None:
        return where
    whole = np.flatnonzero((free >= shape.whole).all(axis=1))
    if len(whole):
        return [int(whole[_tightest(free[whole])])] * shape.bundles
    if shape.bundles == 1:
        return None
    return _machine_by_machine(shape, free) or (_best_fit(shape, free) if len(shape.groups) > 1 else None)


def _tightest(free: Amounts) -> int:
    """The row with the least free: GPUs decide, then CPUs, then memory, then the first."""
    return int(np.lexsort((free[:, 2], free[:, 1], free[:, 0]))[0])


def placed_amounts(shape: Shape, rows: Sequence[int], machines: int) -> Amounts:
    """What these bundles take of each machine."""
    out = np.zeros((machines, 3), dtype=np.int64)
    for amount, places in shape.groups:
        np.add.at(out, [rows[i] for i in places], np.array(amount))
    return out


def _machine_by_machine(shape: Shape, free: Amounts) -> list[int] | None:
    left = free.copy()
    used = np.zeros(len(left), dtype=bool)
    where = [-1] * shape.bundles
    for amount, places in shape.groups:
        need = np.array(amount)
        asked = need > 0
        room = (
            (left[:, asked] // need[asked]).min(axis=1) if asked.any() else np.full(len(left), len(places))
        )  # bundles of this kind that each machine takes
        if int(room.sum()) < len(places):
            return None
        done = 0
        while done < len(places):
            takes = np.minimum(room, len(places) - done)
            best = np.flatnonzero(takes == takes.max())
            if used[best].any():
                best = best[used[best]]
            row = int(best[_tightest(left[best])])
            count = int(takes[row])
            for i in places[done : done + count]:
                where[i] = row
            left[row] -= need * count
            room[row] = 0
            used[row] = True
            done += count
    return where


def _best_fit(shape: Shape, free: Amounts) -> list[int] | None:
    left = free.copy()
    where = [-1] * shape.bundles
    for amount, places in shape.groups:
        for i in places:
            fitting = np.flatnonzero((left >= amount).all(axis=1))
            if not len(fitting):
                return None
            row = int(fitting[_tightest(left[fitting])])
            where[i] = row
            left[row] -= amount
    return where


def _spread(shape: Shape, free: Amounts) -> list[int] | None:
    left = free.copy()
    holds = np.zeros(len(left), dtype=np.int64)
    where = [-1] * shape.bundles
    for amount, places in shape.groups:
        for i in places:
            fitting = np.flatnonzero((left >= amount).all(axis=1))
            if not len(fitting):
                return None
            roomy = left[fitting]
            row = int(fitting[np.lexsort((-roomy[:, 2], -roomy[:, 1], -roomy[:, 0], holds[fitting]))[0]])
            where[i] = row
            left[row] -= amount
            holds[row] += 1
    return where
