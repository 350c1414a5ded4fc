"""What a configuration holds while it runs (pure): one bundle a trainer rank, one an engine.

Neighbours: `gang` reserves exactly this on Ray before a run starts anything; above, the service's `intake` stores it with an experiment and
its `policy` plans with it. Invariants: ranks come first, then engines, or each rank with the engine that shares its GPU; whatever else
a run starts (reward workers, the driver) reserves nothing; plain values only, which go through JSON unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.config.layouts import trainer_ranks
from orchestrator.config.schema import ExperimentConfig


@dataclass(frozen=True, slots=True)
class Bundle:
    """What one process needs, on one machine. cpus: cores; gpus: devices; memory_gib: of the host."""

    cpus: float = 1.0
    gpus: float = 0.0
    memory_gib: float = 0.0


@dataclass(frozen=True, slots=True)
class Demand:
    """Everything an experiment holds while it runs: one bundle a trainer rank, one an engine; all or nothing."""

    bundles: tuple[Bundle, ...] = ()

    @property
    def cpus(self) -> float:
        return sum(bundle.cpus for bundle in self.bundles)

    @property
    def gpus(self) -> float:
        return sum(bundle.gpus for bundle in self.bundles)

    @property
    def memory_gib(self) -> float:
        return sum(bundle.memory_gib for bundle in self.bundles)


def demand_of(config: ExperimentConfig) -> Demand:
    """A rank: one core, and a device on CUDA. An engine: `rollout.threads` cores, and `rollout.tensor_parallel` devices on CUDA.
    Colocated, a bundle has one of each on one device."""
    cuda = config.actor.device == "cuda"
    rank = Bundle(cpus=1.0, gpus=1.0 if cuda else 0.0)
    ranks = trainer_ranks(config.actor)
    if config.rollout.colocated:
        both = Bundle(cpus=1.0 + config.rollout.threads, gpus=1.0 if cuda else 0.0)
        return Demand((both,) * ranks)
    engine = Bundle(cpus=float(config.rollout.threads), gpus=float(config.rollout.tensor_parallel) if cuda else 0.0)
    return Demand((rank,) * ranks + (engine,) * config.rollout.workers)
