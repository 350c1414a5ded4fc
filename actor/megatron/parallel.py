"""One rank's place in the trainer world: process groups, seeds, and the few collectives the trainer itself needs.

Neighbours: `actor.worker` opens the world once a process, `actor.trainer` reads ranks from it.
Invariants: world = data parallel x tensor parallel, tensor-parallel ranks adjacent; what is gathered here is small (Python
objects over gloo); every wait in a collective ends after `COLLECTIVE_TIMEOUT`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from actor.megatron.device import ensure_importable
from actor.specs import TrainerSpec

ensure_importable()

from megatron.core import parallel_state  # noqa: E402
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed  # noqa: E402

# A rank that waits longer for its peers is alone; its error names the collective. Above any single forward pass.
COLLECTIVE_TIMEOUT = timedelta(minutes=10)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class World:
    """Where this rank stands. device: where its tensors live."""

    rank: int
    size: int
    tensor_rank: int
    tensor_size: int
    data_rank: int
    data_size: int
    device: torch.device

    def gather_data_parallel(self, value: T) -> list[T]:
        """`value` of every data-parallel rank, in rank order."""
        if self.data_size == 1:
            return [value]
        gathered: list[T | None] = [None] * self.data_size
        dist.all_gather_object(gathered, value, group=parallel_state.get_data_parallel_group_gloo())
        return gathered  # type: ignore[return-value]

    def sum_data_parallel(self, values: dict[str, float]) -> dict[str, float]:
        """Key by key sum over data-parallel ranks, in rank order (the same bits on every rank)."""
        parts = self.gather_data_parallel(values)
        return {key: sum(part[key] for part in parts) for key in values}


def open_world(spec: TrainerSpec, rank: int, init_method: str) -> World:
    """Join the process group (`tcp://host:port`) and build Megatron's groups; seeds every generator."""
    device = torch.device("cpu")
    if spec.device == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
    dist.init_process_group(
        "nccl" if spec.device == "cuda" else "gloo",
        init_method=init_method,
        rank=rank,
        world_size=spec.world_size,
        timeout=COLLECTIVE_TIMEOUT,
    )
    parallel_state.initialize_model_parallel(spec.tensor_parallel)
    torch.manual_seed(spec.seed)
    model_parallel_cuda_manual_seed(spec.seed)
    return World(
        rank=rank,
        size=spec.world_size,
        tensor_rank=parallel_state.get_tensor_model_parallel_rank(),
        tensor_size=spec.tensor_parallel,
        data_rank=parallel_state.get_data_parallel_rank(),
        data_size=spec.data_parallel,
        device=device,
    )


def close_world() -> None:
    """Leave the process group; the process may open another world afterwards."""
    parallel_state.destroy_model_parallel()
    dist.destroy_process_group()


@contextmanager
def world(spec: TrainerSpec, rank: int, init_method: str) -> Iterator[World]:
    """`open_world` for the length of a with-block."""
    opened = open_world(spec, rank, init_method)
    try:
        yield opened
    finally:
        close_world()
