"""Who starts next, and where: one pure function over what waits, what runs and what the machines have free.

Neighbours: `scheduler` calls `decide` once a round, claims and submits what it starts, shows the reasons; `simulation` drives the same
function. Pure: no I/O, no clock. Invariants: no machine is over-committed; a gang starts whole or not at all; a quota is never passed;
whoever waits has a reason; equal input in any order gives equal decisions.

The order. 1. Priority, with ageing: the level is low 0, normal 1, high 2, plus one for every whole `age_step_s` since its turn began.
Its turn begins when it is queued, and again with every start of an experiment that the same user queued before it (or with it): what
ages is who gets nothing, so five hundred runs submitted at once don't grow old together and pass everybody else. One that comes back
after a failure of infrastructure keeps the time at which it was queued, and its next start begins nobody's turn anew. 2. Within a level,
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
held for it can only shrink. A quota is treated alike: after `reserve_after_s` its user's later experiments leave it what is left of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

import msgspec
import numpy as np

from orchestrator.service import wording
from orchestrator.service.messages import Quota
from orchestrator.service.placement import Node, Strategy, free_amounts, place_shape, placed_amounts, total_amounts
from orchestrator.service.queue_order import Queued, Shares, Started, queue_order
from orchestrator.service.reservation import rows_to_hold
from orchestrator.service.shapes import Shape, shape_of
from orchestrator.service.user_quotas import UserQuotas


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """age_step_s: waiting this long counts as one priority; reserve_after_s: after this long machines are held; reservations: for how
    many at a time; fair_share: between users within a level, else time alone; quota: of every user that `quotas` does not name;
    strategy: how gangs are laid out."""

    age_step_s: float = 6 * 3600.0
    reserve_after_s: float = 2 * 3600.0
    reservations: int = 1
    fair_share: bool = True
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
    EARLIER = "earlier"  # it may start, but the job of an earlier attempt has not ended; said by the scheduler
    NEVER = "never"  # does not fit the machines there are, even empty


class Decision(msgspec.Struct, frozen=True, gc=False):  # ten thousand a round: made four times as fast as a dataclass
    """What becomes of one waiting experiment in this round. nodes: of a start, the machine of each bundle in the demand's order; of one
    that waits, those held for it, or (); before: how many that wait for room or quota come before it in the order."""

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
    ended: Sequence[Started] = (),
) -> list[Decision]:
    """One decision for each of `waiting`, in the order of the queue.

    running: all that hold resources, also those starting; nodes: what is free of them must already leave out everything in `running`.
    held: `held_nodes` of the round before, so that reservations stay where they are. ended: those that ended within the last
    `age_step_s`: their starts count for the turn of their user's others, or a sweep of short runs would grow old as a whole. now:
    seconds since 1970 UTC.
    """
    step = _Round(waiting, running, nodes, settings, now)
    step.held_before = held or {}
    order = queue_order(waiting, [*running, *ended], step.shares(), settings.age_step_s, now)
    step.walk(order)
    return step.decisions(order)


def held_nodes(decisions: Sequence[Decision]) -> dict[str, tuple[str, ...]]:
    """Experiment → machines held for it, to be handed to the next round."""
    return {d.id: d.nodes for d in decisions if d.nodes and not d.start}


@dataclass(slots=True)
class _Kind:
    """All that wait with one demand. share: of the cluster; never: why it can't fit; full: did not fit in this round, and so won't;
    refused: by quota, a text a user; text: why its members wait."""

    shape: Shape
    share: float
    never: str
    full: bool = False
    refused: dict[str, str] = field(default_factory=dict)
    text: str = ""
    why: Why = Why.ROOM


class _Round:
    """What one round has decided so far. free: what the next one may use; unheld: what nobody uses, held or not; room: what the
    machines have, less what is held."""

    def __init__(
        self,
        waiting: Sequence[Queued],
        running: Sequence[Queued],
        nodes: Sequence[Node],
        settings: PolicySettings,
        now: float,
    ) -> None:
        self.waiting, self.settings, self.now = waiting, settings, now
        ordered = sorted(nodes, key=lambda node: node.id)
        self.names = [node.id for node in ordered]
        self.row_of = {name: row for row, name in enumerate(self.names)}
        self.totals, self.free = total_amounts(ordered), free_amounts(ordered)
        self.room, self.unheld = self.totals.copy(), self.free.copy()
        self.whole = np.maximum(self.totals.sum(axis=0), 1)
        self.quotas = UserQuotas(settings.quota, settings.quotas, running)
        self.kinds = self._kinds()
        self.outcomes: dict[int, tuple[Why, str]] = {}  # rows whose outcome is not that of their kind
        self.placed: dict[int, tuple[str, ...]] = {}  # starts and holdings
        self.holders: list[str] = []
        self.held_before: Mapping[str, Sequence[str]] = {}

    def _kinds(self) -> list[_Kind]:
        by_demand: dict[
            int, _Kind
        ] = {}  # by identity first: hashing a demand of many bundles costs more than all the rest
        by_shape: dict[int, _Kind] = {}
        kinds = []
        for e in self.waiting:
            kind = by_demand.get(id(e.demand))
            if kind is None:
                shape = shape_of(e.demand)
                kind = by_shape.get(id(shape))
                if kind is None:
                    never = "" if place_shape(shape, self.totals) is not None else wording.never(shape, self.totals)
                    kind = _Kind(shape, 0.0 if never else self.share(shape.whole), never)
                    by_shape[id(shape)] = kind
                by_demand[id(e.demand)] = kind
            kinds.append(kind)
        return kinds

    def share(self, amount: Sequence[int]) -> float:
        """The largest of the shares of GPUs, CPUs and memory."""
        return max(a / w for a, w in zip(amount, self.whole.tolist(), strict=True))

    def shares(self) -> Shares:
        if not self.settings.fair_share:
            return Shares({}, [0.0] * len(self.kinds))
        held = {user: self.share(amount) for user, amount in self.quotas.held().items()}
        return Shares(held, [kind.share for kind in self.kinds])

    def walk(self, order: Sequence[int]) -> None:
        """Decide on each, first come first. What can't come out otherwise than for the one before with its demand is passed over."""
        limited = {user: self.quotas.limits(user) for user in {e.user for e in self.waiting}}
        queued_before = self.now - self.settings.reserve_after_s
        for row in order:
            e, kind = self.waiting[row], self.kinds[row]
            settled = kind.full and e.not_before <= self.now and not limited[e.user]
            if not settled or (self.may_hold and e.queued_at <= queued_before):
                self._decide(row, e, kind)

    @property
    def may_hold(self) -> bool:
        return len(self.holders) < self.settings.reservations

    def _decide(self, row: int, e: Queued, kind: _Kind) -> None:
        if kind.never:
            self.outcomes[row] = (Why.NEVER, f"can't start on this cluster as it is: {kind.never}")
        elif e.not_before > self.now:
            at = datetime.fromtimestamp(e.not_before, UTC)
            self.outcomes[row] = (Why.BACK_OFF, f"waits until {at:%H:%M:%S} UTC for its next try")
        elif self._within_quota(row, e, kind) and (kind.full or not self._start(row, e, kind)):
            kind.full = True
            self._hold(row, e, kind)

    def _within_quota(self, row: int, e: Queued, kind: _Kind) -> bool:
        if not self.quotas.limits(e.user):
            return True
        refusal = kind.refused.get(e.user) or self.quotas.refusal(e.user, kind.shape)
        if not refusal:
            return True
        kind.refused[e.user] = refusal
        self.outcomes[row] = (Why.QUOTA, f"waits: {refusal}")
        if self.now - e.queued_at >= self.settings.reserve_after_s and not self.quotas.beyond(e.user, kind.shape):
            self.quotas.keep(e.user, e.id)
        return False

    def _start(self, row: int, e: Queued, kind: _Kind) -> bool:
        where = place_shape(kind.shape, self.free, self.settings.strategy)
        if where is None:
            return False
        amounts = placed_amounts(kind.shape, where, len(self.names))
        self.free -= amounts
        self.unheld -= amounts
        self.quotas.start(e.user, kind.shape)
        self.placed[row] = tuple(self.names[i] for i in where)
        self.outcomes[row] = (Why.START, f"starts on {wording.machines(self.placed[row])}")
        return True

    def _hold(self, row: int, e: Queued, kind: _Kind) -> None:
        """Machines for one that lacks room, when it has waited long enough and not too many have some."""
        if not self.may_hold or self.now - e.queued_at < self.settings.reserve_after_s:
            return
        before = [self.row_of.get(name, -1) for name in self.held_before.get(e.id, ())]
        where = rows_to_hold(kind.shape, self.free, self.room, before if before and min(before) >= 0 else None)
        if where is None:
            return
        amounts = placed_amounts(kind.shape, where, len(self.names))
        self.free = np.maximum(self.free - amounts, 0)
        self.room -= amounts
        self.holders.append(e.id)
        self.placed[row] = tuple(self.names[i] for i in where)

    def decisions(self, order: Sequence[int]) -> list[Decision]:
        out: list[Decision] = []
        before = 0
        for row in order:
            id, kind, outcome = self.waiting[row].id, self.kinds[row], self.outcomes.get(row)
            if outcome is None:
                if not kind.text:
                    self._explain(kind)
                reason = f"{kind.text}{before} before it" if before else f"{kind.text}first in the queue"
                if row not in self.placed:
                    out.append(Decision(id, kind.why, reason, (), before))
                else:
                    nodes = self.placed[row]
                    out.append(
                        Decision(id, kind.why, f"{reason}; held for it: {wording.machines(nodes)}", nodes, before)
                    )
                before += 1
            elif outcome[0] is Why.QUOTA:
                out.append(Decision(id, Why.QUOTA, outcome[1], (), before))
                before += 1
            else:
                out.append(Decision(id, outcome[0], outcome[1], self.placed.get(row, ()), before))
        return out

    def _explain(self, kind: _Kind) -> None:
        if self.holders and place_shape(kind.shape, self.unheld) is not None:
            kind.why, text = Why.HELD, wording.held(kind.shape, self.holders)
        else:
            kind.why, text = Why.ROOM, wording.lacks(kind.shape, self.unheld)
        kind.text = f"waits: {text}; "
