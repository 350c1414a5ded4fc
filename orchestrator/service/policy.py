"""Who starts next, and where: one pure function over what waits, what runs and what the machines have free.

Neighbours: `scheduler` calls `decide` once a round, claims and submits what it starts, shows the reasons; `simulation` drives the same
function. Pure: no I/O, no clock. Invariants: no machine is over-committed; a gang starts whole or not at all; a quota is never passed;
whoever waits has a reason; equal input in any order gives equal decisions.

The order. 1. Priority, with ageing: the level is low 0, normal 1, high 2, plus one for every whole `age_step_s` since its turn began.
Its turn begins when it is queued, and again with every start of an experiment that the same user queued before it (or with it): what
ages is who gets nothing, so five hundred runs submitted at once don't grow old together and pass everybody else. 2. Within a level,
fair share between users: the one first whose share of the cluster (the largest of its shares of GPUs, CPUs and memory) is the
smallest, counting what the user holds and what it has waiting before this one. 3. Who was queued first; then the id.

Backfill and reservations. Everybody is tried in that order, so what fits starts although something larger before it waits. An experiment
that lacks room, and was queued at least `reserve_after_s` ago, gets machines held for it, at most `reservations` of them at a time, the
first in the order first. Held are the machines where the least is missing (GPUs, then CPUs, then memory); they are kept from round to
round unless others come to miss less. On a machine held in part or whole, those behind it in the order may use only what is free beyond
the amount held: nothing they start can delay it, however long they run. Those before it in the order may take anything.

Why nobody starves (as long as runs end, machines stay and its user's quota allows it): only finitely many experiments of its user were
queued before it, so its turn begins for the last time; from then on it gains a level every `age_step_s`, and only what was queued at most
two steps later can ever be before it; once they have started it is the first, and after `reserve_after_s` what it misses on the machines
held for it can only shrink. A quota is treated alike: after `reserve_after_s` its user's later experiments leave it what the quota has left.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from orchestrator.service.messages import Demand, Priority, Quota
from orchestrator.service.placement import (
    SCALE,
    Amounts,
    Node,
    Shape,
    Strategy,
    asks,
    free_amounts,
    never_reason,
    number,
    place_shape,
    quantity,
    shape_of,
    total_amounts,
)

LEVEL = {Priority.LOW: 0, Priority.NORMAL: 1, Priority.HIGH: 2}


class Queued(Protocol):
    """What the policy reads of an experiment, waiting, running or ended; `messages.Experiment` is one. Times: seconds since 1970 UTC."""

    @property
    def id(self) -> str: ...
    @property
    def user(self) -> str: ...
    @property
    def priority(self) -> Priority: ...
    @property
    def demand(self) -> Demand: ...
    @property
    def queued_at(self) -> float: ...
    @property
    def started_at(self) -> float: ...
    @property
    def not_before(self) -> float: ...


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """age_step_s: waiting this long counts as one priority; reserve_after_s: after this long machines are held; reservations: for how
    many at a time; quota: of every user that `quotas` does not name; strategy: how gangs are laid out."""

    age_step_s: float = 6 * 3600.0
    reserve_after_s: float = 1800.0
    reservations: int = 2
    quota: Quota = field(default_factory=Quota)
    quotas: Mapping[str, Quota] = field(default_factory=dict)
    strategy: Strategy = Strategy.PACK


class Why(StrEnum):
    """What a decision rests on; the label of the metric that counts decisions."""

    START = "start"
    ROOM = "room"  # not enough is free
    HELD = "held"  # enough is free, but held for somebody who has waited long
    QUOTA = "quota"
    BACK_OFF = "back_off"
    NEVER = "never"  # does not fit the machines there are, even empty


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one waiting experiment in this round. start: now; nodes: of a start, the machine of each bundle in the demand's
    order; of one that waits, those held for it, or (); before: how many that wait for room or quota come before it in the order."""

    id: str
    why: Why
    reason: str
    nodes: tuple[str, ...] = ()
    before: int = 0

    @property
    def start(self) -> bool:
        return self.why is Why.START


def decide(
    waiting: Sequence[Queued],
    running: Sequence[Queued],
    nodes: Sequence[Node],
    settings: PolicySettings,
    now: float,
    *,
    held: Mapping[str, Sequence[str]] | None = None,
    ended: Sequence[Queued] = (),
) -> list[Decision]:
    """One decision for each of `waiting`, in the order of the queue.

    running: all that hold resources, also those starting; nodes: what is free of them must already leave out everything in `running`.
    held: `{d.id: d.nodes}` of the waiting decisions of the round before (`held_nodes`), so that reservations stay where they are.
    ended: those that ended within the last `age_step_s`, if at hand: their starts count for the turn of their user's others.
    """
    raise NotImplementedError
