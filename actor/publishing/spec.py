"""How a run publishes.

Neighbours: `orchestrator.specs` derives one from the config, `outlet` opens what it asks for.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Transport(StrEnum):
    """Which way weights go from trainer to engines."""

    OBJECT_STORE = "object_store"  # buckets in Ray's object store, over the network where engines are elsewhere
    SHARED_MEMORY = "shared_memory"  # buckets in memory that trainer rank 0 and all engines see
    NCCL = "nccl"  # broadcast from trainer rank 0's GPU to the engines' GPUs
    GLOO = "gloo"  # the same between CPUs
    CUDA_IPC = "cuda_ipc"  # every trainer rank lends a buffer to the engine on its own GPU

    @property
    def live(self) -> bool:
        """From device to device; nothing of it can be read again later."""
        return self in (Transport.NCCL, Transport.GLOO, Transport.CUDA_IPC)


@dataclass(frozen=True, slots=True)
class PublishSpec:
    """name: of the run, unique on every host; bucket_mib: largest bucket, one tensor may exceed it, 0: `limit_mib`; only_changed: bytes
    that engines hold already are neither written nor loaded again; keep_memory: of a version that is no longer needed, for a later
    one; limit_s: of every wait between trainer and engines."""

    name: str
    transport: Transport
    bucket_mib: int
    only_changed: bool
    keep_memory: bool
    limit_s: float = 600.0

    @property
    def limit_mib(self) -> int:
        """Small enough in shared memory that a bucket's bytes are still in a core's cache when they are loaded, and that the engines
        begin early; elsewhere large, because every bucket costs a call or two."""
        return self.bucket_mib or (4 if self.transport is Transport.SHARED_MEMORY else 64)


@dataclass(frozen=True, slots=True)
class Meeting:
    """Where trainer and engines meet for a live transport. size: trainer rank 0 and every worker of every engine."""

    address: str
    size: int
