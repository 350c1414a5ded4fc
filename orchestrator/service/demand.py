"""What a configuration holds while it runs (pure): one bundle a trainer rank, one an engine.

Neighbours: `gang` reserves exactly this on Ray before a run starts anything, `intake` stores it with an experiment, `policy` plans with
it. Invariants: ranks come first, then engines; whatever else a run starts (reward workers, the driver) reserves nothing.
"""

from __future__ import annotations

from orchestrator.config.schema import ExperimentConfig
from orchestrator.service.messages import Bundle, Demand


def demand_of(config: ExperimentConfig) -> Demand:
    """A rank: one core, and a device on CUDA. An engine: `rollout.threads` cores, and `rollout.tensor_parallel` devices on CUDA."""
    cuda = config.actor.device == "cuda"
    rank = Bundle(cpus=1.0, gpus=1.0 if cuda else 0.0)
    engine = Bundle(cpus=float(config.rollout.threads), gpus=float(config.rollout.tensor_parallel) if cuda else 0.0)
    return Demand((rank,) * config.actor.world_size + (engine,) * config.rollout.workers)
