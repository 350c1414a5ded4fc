"""Experiments as a cluster of many users sees them, drawn from a seed.

Neighbours: `simulation` runs them through the policy. Pure: equal settings give equal experiments.
Invariant: every experiment fits the empty cluster.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.service.messages import Bundle, Demand, Priority
from orchestrator.service.placement import Node

DAY_S = 86_400.0
GPUS_ON_A_MACHINE = 8
SWEEP_SHARE, SWEEP_MEAN, SWEEP_MOST = 0.03, 20.0, 200  # submissions that are sweeps, and how many runs they have
SWEEP_GPUS = 8  # sweeps are of small runs


@dataclass(frozen=True, slots=True)
class SimulatedExperiment:
    """What `queue_order.Queued` asks for, and how long it will run, which the policy never sees."""

    id: str
    user: str
    priority: Priority
    demand: Demand
    queued_at: float
    duration_s: float
    first_started_at: float = 0.0
    not_before: float = 0.0


@dataclass(frozen=True, slots=True)
class Load:
    """experiments, machines (of 8 GPUs), users; offered: GPU time asked for, of what the machines have while experiments arrive;
    median_s, sigma, longest_s: of the lognormal running times; sizes: GPUs → weight; priorities: weight; skew: user k submits at
    a rate of 1/k^skew; day_to_night: rate of submissions at noon to that at midnight."""

    experiments: int = 10_000
    machines: int = 125
    users: int = 40
    offered: float = 0.95
    median_s: float = 7200.0
    sigma: float = 1.2
    longest_s: float = 3 * DAY_S
    sizes: Mapping[int, float] = field(
        default_factory=lambda: {1: 0.3, 2: 0.15, 4: 0.15, 8: 0.2, 16: 0.1, 32: 0.05, 64: 0.03, 128: 0.02}
    )
    priorities: Mapping[Priority, float] = field(
        default_factory=lambda: {Priority.LOW: 0.25, Priority.NORMAL: 0.6, Priority.HIGH: 0.15}
    )
    skew: float = 1.0
    day_to_night: float = 4.0
    seed: int = 0


def machines(load: Load) -> list[Node]:
    return [
        Node.empty(f"machine-{i:03d}", cpus=96.0, gpus=float(GPUS_ON_A_MACHINE), memory_gib=1024.0)
        for i in range(load.machines)
    ]


def gang(gpus: int) -> Demand:
    """One bundle a GPU up to a whole machine, then one a machine."""
    if gpus <= GPUS_ON_A_MACHINE:
        return Demand((Bundle(8.0 * gpus, float(gpus), 64.0 * gpus),))
    return Demand((Bundle(64.0, float(GPUS_ON_A_MACHINE), 512.0),) * (gpus // GPUS_ON_A_MACHINE))


def experiments(load: Load) -> list[SimulatedExperiment]:
    """In the order in which they are submitted, the first at second 0."""
    draw = random.Random(load.seed)
    drawn: list[
        tuple[int, int, Priority, float, bool]
    ] = []  # user, GPUs, priority, running time, first of a submission
    user_weights = [1.0 / (k + 1) ** load.skew for k in range(load.users)]
    sizes, size_weights = list(load.sizes), list(load.sizes.values())
    while len(drawn) < load.experiments:
        user = draw.choices(range(load.users), user_weights)[0]
        gpus = draw.choices(sizes, size_weights)[0]
        priority = draw.choices(list(load.priorities), list(load.priorities.values()))[0]
        runs = 1
        if gpus <= SWEEP_GPUS and draw.random() < SWEEP_SHARE:
            runs = min(1 + int(draw.expovariate(1.0 / SWEEP_MEAN)), SWEEP_MOST)
        for k in range(min(runs, load.experiments - len(drawn))):
            duration_s = min(load.median_s * math.exp(draw.gauss(0.0, load.sigma)), load.longest_s)
            drawn.append((user, gpus, priority, duration_s, k == 0))
    work_s = sum(gpus * duration_s for _, gpus, _, duration_s, _ in drawn)
    span_s = work_s / (load.offered * load.machines * GPUS_ON_A_MACHINE)
    arrivals = _arrivals(sum(first for *_, first in drawn), span_s, load.day_to_night, draw)
    demands = {gpus: gang(gpus) for gpus in sizes}
    out, submission = [], -1
    for i, (user, gpus, priority, duration_s, first) in enumerate(drawn):
        submission += first
        out.append(
            SimulatedExperiment(
                f"run-{i:05d}", f"user-{user:02d}", priority, demands[gpus], arrivals[submission], duration_s
            )
        )
    return out


def _arrivals(count: int, span_s: float, day_to_night: float, draw: random.Random) -> list[float]:
    """Seconds, ascending from 0, more of them by day than by night."""
    depth = (day_to_night - 1.0) / (day_to_night + 1.0)
    at: list[float] = []
    while len(at) < count:
        second = draw.random() * span_s
        if draw.random() * (1.0 + depth) < 1.0 - depth * math.cos(2.0 * math.pi * second / DAY_S):
            at.append(second)
    at.sort()
    return [second - at[0] for second in at]
