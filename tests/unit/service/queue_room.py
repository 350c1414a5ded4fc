"""Small clusters and queues for the tests of the policy."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from orchestrator.service.messages import Bundle, Demand, Priority
from orchestrator.service.placement import Node, hold
from orchestrator.service.policy import Decision, PolicySettings, decide, held_nodes

NOW = 1_000_000.0
HOUR = 3600.0
ONE_GPU = Demand((Bundle(1.0, 1.0),))


@dataclass(frozen=True, slots=True)
class Waiting:
    """The least that the policy reads of an experiment."""

    id: str
    user: str = "ann"
    priority: Priority = Priority.NORMAL
    demand: Demand = ONE_GPU
    queued_at: float = NOW
    first_started_at: float = 0.0
    not_before: float = 0.0


def gang(count: int, gpus: float = 8.0) -> Demand:
    return Demand((Bundle(1.0, gpus),) * count)


def machines(count: int, *, free: float = 8.0, first: int = 0) -> list[Node]:
    return [Node(f"m{i}", 64.0, 8.0, 512.0, 64.0, free, 512.0) for i in range(first, first + count)]


@dataclass
class Cluster:
    """A scheduler's rounds, one after the other, at times that the test sets."""

    nodes: list[Node]
    settings: PolicySettings = field(default_factory=PolicySettings)
    waiting: list[Waiting] = field(default_factory=list)
    running: dict[str, tuple[Waiting, tuple[str, ...]]] = field(default_factory=dict)
    held: dict[str, tuple[str, ...]] = field(default_factory=dict)
    now: float = NOW
    order: list[str] = field(default_factory=list)

    def free(self) -> list[Node]:
        left = self.nodes
        for e, where in self.running.values():
            left = hold(left, e.demand, where)
        return left

    def round(self) -> list[Decision]:
        decisions = decide(
            self.waiting, [e for e, _ in self.running.values()], self.free(), self.settings, self.now, held=self.held
        )
        self.held = held_nodes(decisions)
        by_id = {e.id: e for e in self.waiting}
        for decision in decisions:
            if decision.start:
                e = by_id.pop(decision.id)
                self.running[e.id] = replace(e, first_started_at=self.now), decision.nodes
                self.order.append(e.id)
        self.waiting = list(by_id.values())
        return decisions

    def end(self, id: str) -> None:
        del self.running[id]
