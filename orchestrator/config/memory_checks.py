"""Rules for the keys that trade memory for time, and for the GPUs a run may take (pure).

Neighbours: `checks` calls it; `orchestrator.plan` says what the keys cost and whether a model fits. Invariant: every problem is
found in one go, each with the allowed range.
"""

from __future__ import annotations

from actor import KERNEL_CHOICES
from orchestrator.config.schema import ExperimentConfig

RECOMPUTE = ("none", "selective", "full")


def memory_problems(config: ExperimentConfig) -> list[str]:
    """Every rule that is broken, as `key = value: rule`."""
    actor, cluster, rollout = config.actor, config.cluster, config.rollout
    rules = (
        (actor.recompute in RECOMPUTE, "actor.recompute", actor.recompute, f"must be one of {', '.join(RECOMPUTE)}"),
        (
            actor.kernels in KERNEL_CHOICES,
            "actor.kernels",
            actor.kernels,
            f"must be one of {', '.join(KERNEL_CHOICES)}",
        ),
        (actor.head_chunk_rows >= 1, "actor.head_chunk_rows", actor.head_chunk_rows, "must be at least 1 row"),
        (actor.head_chunk_vocab >= 1, "actor.head_chunk_vocab", actor.head_chunk_vocab, "must be at least 1 column"),
        (actor.lora.rank >= 0, "actor.lora.rank", actor.lora.rank, "must be 0 (off) or more"),
        (actor.lora.alpha > 0, "actor.lora.alpha", actor.lora.alpha, "must be above 0"),
        (rollout.tensor_parallel >= 1, "rollout.tensor_parallel", rollout.tensor_parallel, "must be at least 1"),
        (
            0 < rollout.gpu_memory_utilization <= 1,
            "rollout.gpu_memory_utilization",
            rollout.gpu_memory_utilization,
            "must be above 0 and at most 1 (the share of a GPU that an engine fills)",
        ),
        (cluster.nodes >= 0, "cluster.nodes", cluster.nodes, "must be 0 (not said) or more"),
        (cluster.gpus_per_node >= 0, "cluster.gpus_per_node", cluster.gpus_per_node, "must be 0 (not said) or more"),
        (
            (cluster.nodes > 0) == (cluster.gpus_per_node > 0),
            "cluster.gpus_per_node",
            cluster.gpus_per_node,
            "goes with cluster.nodes; set both, or leave both at 0",
        ),
        (
            cluster.nodes == 0 or actor.device == "cuda",
            "cluster.nodes",
            cluster.nodes,
            f"is a cluster of GPUs, but the run computes on CPUs; no plan is shipped for model={config.model.name} on it: set "
            "actor.device=cuda and the layouts yourself (docs/PLANS.md)",
        ),
        (cluster.gpu_memory_gib > 0, "cluster.gpu_memory_gib", cluster.gpu_memory_gib, "must be above 0 GiB"),
    )
    return [f"{key} = {value!r}: {rule}" for ok, key, value, rule in rules if not ok]
