"""A cluster in simulated time, driven by the same policy as the real one.

Neighbours: `simulated_load` draws the experiments, `simulation_figures` sums up, `tests/benchmarks/scheduler_simulation.py` prints.
Pure: no clock; equal input gives equal output. Invariants: a machine never gives more than it has (checked at every start); whatever a
rule starts runs for its whole time; a rule never learns how long anything will run.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from orchestrator.service.messages import Demand
from orchestrator.service.placement import Node, hold, place
from orchestrator.service.policy import PolicySettings, decide, held_nodes
from orchestrator.service.simulated_load import SimulatedExperiment

Start = tuple[str, Sequence[str]]  # experiment, machine of each bundle


class Rule(Protocol):
    """Says what starts where. ended: what has ended since the round before."""

    def __call__(
        self,
        waiting: Sequence[SimulatedExperiment],
        running: Sequence[SimulatedExperiment],
        ended: Sequence[SimulatedExperiment],
        nodes: Sequence[Node],
        now: float,
    ) -> Iterable[Start]: ...


class PolicyRule:
    """`policy.decide` as the scheduler calls it: what is held and what has ended lately is carried from round to round."""

    def __init__(self, settings: PolicySettings) -> None:
        self.settings = settings
        self._held: dict[str, tuple[str, ...]] = {}
        self._ended: deque[tuple[float, SimulatedExperiment]] = deque()

    def __call__(
        self,
        waiting: Sequence[SimulatedExperiment],
        running: Sequence[SimulatedExperiment],
        ended: Sequence[SimulatedExperiment],
        nodes: Sequence[Node],
        now: float,
    ) -> Iterable[Start]:
        self._ended.extend((now, e) for e in ended)
        while self._ended and self._ended[0][0] < now - self.settings.age_step_s:
            self._ended.popleft()
        lately = [e for _, e in self._ended] if math.isfinite(self.settings.age_step_s) else []
        decisions = decide(waiting, running, nodes, self.settings, now, held=self._held, ended=lately)
        self._held = held_nodes(decisions)
        return [(d.id, d.nodes) for d in decisions if d.start]


def first_come(
    waiting: Sequence[SimulatedExperiment],
    running: Sequence[SimulatedExperiment],
    ended: Sequence[SimulatedExperiment],
    nodes: Sequence[Node],
    now: float,
) -> Iterable[Start]:
    """To compare with: gangs in the order in which they came; nobody passes one that waits."""
    left = list(nodes)
    for e in sorted(waiting, key=lambda e: (e.queued_at, e.id)):
        where = place(e.demand, left)
        if where is None:
            return
        left = hold(left, e.demand, where)
        yield e.id, where


@dataclass(frozen=True, slots=True)
class Run:
    """What became of one experiment. Times: seconds of the simulation."""

    experiment: SimulatedExperiment
    started_at: float

    @property
    def wait_s(self) -> float:
        return self.started_at - self.experiment.queued_at

    @property
    def ended_at(self) -> float:
        return self.started_at + self.experiment.duration_s


@dataclass(frozen=True, slots=True)
class Simulated:
    """runs: in the order of their starts; left: those that were never started; rounds: how often the rule was asked."""

    runs: tuple[Run, ...]
    left: tuple[SimulatedExperiment, ...]
    rounds: int


class Overcommitted(AssertionError):
    """A rule has given away more of a machine than it has: the rule is wrong."""


def simulate(
    experiments: Sequence[SimulatedExperiment],
    nodes: Sequence[Node],
    rule: Rule,
    *,
    round_s: float = 60.0,
    progress: Callable[[int], None] | None = None,
) -> Simulated:
    """Asks the rule at the first multiple of `round_s` after something came or ended. progress: told how many have started so far.

    Raises Overcommitted when the rule starts what does not fit.
    """
    arrivals = deque(sorted(experiments, key=lambda e: (e.queued_at, e.id)))
    waiting: dict[str, SimulatedExperiment] = {}
    running: dict[str, SimulatedExperiment] = {}
    where: dict[str, Sequence[str]] = {}
    ends: list[tuple[float, str]] = []
    cluster = {node.id: node for node in nodes}
    runs: list[Run] = []
    rounds = 0
    while arrivals or ends:
        soonest = min(arrivals[0].queued_at if arrivals else math.inf, ends[0][0] if ends else math.inf)
        now = math.ceil(soonest / round_s) * round_s
        while arrivals and arrivals[0].queued_at <= now:
            e = arrivals.popleft()
            waiting[e.id] = e
        ended = []
        while ends and ends[0][0] <= now:
            e = running.pop(heapq.heappop(ends)[1])
            _change(cluster, e.demand, where.pop(e.id), +1)
            ended.append(e)
        rounds += 1
        for id, machines in rule(list(waiting.values()), list(running.values()), ended, list(cluster.values()), now):
            e = waiting.pop(id)
            _change(cluster, e.demand, machines, -1)
            running[id] = replace(e, first_started_at=now)
            where[id] = machines
            runs.append(Run(e, now))
            heapq.heappush(ends, (now + e.duration_s, id))
        if progress is not None:
            progress(len(runs))
    return Simulated(tuple(runs), tuple(waiting.values()), rounds)


def _change(cluster: dict[str, Node], demand: Demand, machines: Sequence[str], sign: int) -> None:
    for bundle, id in zip(demand.bundles, machines, strict=True):
        node = cluster[id]
        changed = replace(
            node,
            free_cpus=node.free_cpus + sign * bundle.cpus,
            free_gpus=node.free_gpus + sign * bundle.gpus,
            free_memory_gib=node.free_memory_gib + sign * bundle.memory_gib,
        )
        if min(changed.free_cpus, changed.free_gpus, changed.free_memory_gib) < -1e-6:
            raise Overcommitted(f"{id} has {node}, and {bundle} was started on it")
        cluster[id] = changed
