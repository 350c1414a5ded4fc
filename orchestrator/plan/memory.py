"""Bytes by component, of one process on one GPU (pure).

Neighbours: `training` and `engines` fill it, `assess` compares it with a GPU. Invariant: components are disjoint, so their sum is what
the GPU holds at its fullest moment.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

GIB = 1 << 30
MIB = 1 << 20
ELEMENT_BYTES = {"float32": 4, "bfloat16": 2}

# Set aside on every GPU for what no tensor of ours shows: the CUDA context and loaded kernels (about 0.5 GiB), NCCL's channels
# (about 1-2 GiB with several groups), and blocks that the allocator holds but cannot use. An assumption, not a measurement.
RESERVE_BYTES = 4 * GIB


@dataclass(frozen=True, slots=True)
class Memory:
    """weights: models in their own dtype; gradients: float32 buffers; optimizer: this rank's shard of moments and float32 masters;
    activations: what is kept from forward to backward; working: temporaries of the widest moment, as far as they
    exceed what is counted elsewhere; kv_cache: of an engine;
    reserve: see RESERVE_BYTES. host: bytes kept in the machine's memory instead, not part of `total`."""

    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    working: int = 0
    kv_cache: int = 0
    reserve: int = 0
    host: int = 0

    @property
    def total(self) -> int:
        return sum(getattr(self, item.name) for item in fields(self)) - self.host

    def __add__(self, other: Memory) -> Memory:
        return Memory(*(getattr(self, item.name) + getattr(other, item.name) for item in fields(self)))


COMPONENTS = tuple(item.name for item in fields(Memory) if item.name != "host")
