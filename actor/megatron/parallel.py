"""One rank's place in the trainer world: process groups, seeds, and the few collectives the trainer itself needs.

Neighbours: `actor.worker` opens the world once a process, `actor.trainer` reads ranks from it; a critic with a layout of its own
on the same ranks gets a second `World` (`another_layout`).
Invariants: ranks are ordered as `actor.layout` says; Megatron keeps its groups in module globals, so a `World` holds a copy of
them and puts it in place while it is active; what is gathered here is small (Python objects over gloo); every wait in a
collective ends after `COLLECTIVE_TIMEOUT`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from actor.layout import Layout
from actor.megatron.device import ensure_importable

ensure_importable()

from megatron.core import parallel_state  # noqa: E402
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed  # noqa: E402

# A rank that waits longer for its peers is alone; its error names the collective. Above any single forward pass.
COLLECTIVE_TIMEOUT = timedelta(minutes=10)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class World:
    """Where this rank stands in one layout. device: where its tensors live; objects: group of all ranks for small objects;
    groups: Megatron's process groups of this layout, by the name of the global that holds each."""

    rank: int
    layout: Layout
    device: torch.device
    objects: Any
    groups: Mapping[str, Any]

    @property
    def size(self) -> int:
        return self.layout.world_size

    @property
    def tensor_rank(self) -> int:
        return self.rank % self.layout.tensor

    @property
    def context_rank(self) -> int:
        return self.rank // self.layout.tensor % self.layout.context

    @property
    def data_rank(self) -> int:
        return self.rank // (self.layout.tensor * self.layout.context) % self.layout.data

    @property
    def pipeline_rank(self) -> int:
        return self.rank // (self.layout.tensor * self.layout.context * self.layout.data)

    @property
    def first_stage(self) -> bool:
        return self.pipeline_rank == 0

    @property
    def last_stage(self) -> bool:
        return self.pipeline_rank == self.layout.pipeline - 1

    @contextmanager
    def active(self) -> Iterator[None]:
        """Megatron's groups are those of this layout inside; what was before comes back."""
        before = _groups()
        _put(self.groups)
        try:
            yield
        finally:
            _put(before)

    def gather(self, value: T) -> list[T]:
        """`value` of every rank, in order, known on every rank."""
        gathered: list[T | None] = [None] * self.size
        dist.all_gather_object(gathered, value, group=self.objects)
        return gathered  # type: ignore[return-value]

    def gather_data_parallel(self, value: T) -> list[T]:
        """`value` of every data-parallel share, in order, known on every rank. A share speaks through one of its ranks: last
        pipeline stage, where losses are, first of its tensor- and context-parallel ranks, which hold the same."""
        if self.size == 1:
            return [value]
        step = self.layout.tensor * self.layout.context
        speakers = [step * (share + self.layout.data * (self.layout.pipeline - 1)) for share in range(self.layout.data)]
        gathered: list[T | None] = [None] * self.size
        dist.all_gather_object(gathered, value if self.rank in speakers else None, group=self.objects)
        return [gathered[speaker] for speaker in speakers]  # type: ignore[misc]

    def sum_data_parallel(self, values: dict[str, float]) -> dict[str, float]:
        """Key by key sum over data-parallel shares, in order (the same bits on every rank); keys: those of the ranks that speak,
        for which the others may pass zeros."""
        parts = self.gather_data_parallel(values)
        return {key: sum(part[key] for part in parts) for key in values}


def open_world(layout: Layout, rank: int, init_method: str, *, device: str = "cpu", seed: int = 0) -> World:
    """Join the process group (`tcp://host:port`) as `rank` of `layout` and build Megatron's groups; seeds every generator.

    device: "cpu" (gloo) | "cuda" (nccl, the current device).
    """
    cuda = device == "cuda"
    dist.init_process_group(
        "nccl" if cuda else "gloo",
        init_method=init_method,
        rank=rank,
        world_size=layout.world_size,
        timeout=COLLECTIVE_TIMEOUT,
    )
    objects = dist.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT) if cuda else dist.group.WORLD
    place = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
    _build_groups(layout)
    torch.manual_seed(seed)
    model_parallel_cuda_manual_seed(seed)
    return World(rank, layout, place, objects, _groups())


def another_layout(world: World, layout: Layout) -> World:
    """The same ranks laid out in another way (all ranks call); `world`'s groups stay in place."""
    if layout == world.layout:
        return world
    _put(_NONE)
    try:
        _build_groups(layout)
        return World(world.rank, layout, world.device, world.objects, _groups())
    finally:
        _put(world.groups)


def close_world() -> None:
    """Leave the process group; the process may open another world afterwards."""
    parallel_state.destroy_model_parallel()
    dist.destroy_process_group()


@contextmanager
def opened(layout: Layout, rank: int, init_method: str, *, device: str = "cpu", seed: int = 0) -> Iterator[World]:
    """`open_world` for the length of a with-block."""
    world = open_world(layout, rank, init_method, device=device, seed=seed)
    try:
        yield world
    finally:
        close_world()


def _build_groups(layout: Layout) -> None:
    parallel_state.initialize_model_parallel(
        layout.tensor,
        layout.pipeline,
        context_parallel_size=layout.context,
        distributed_timeout_minutes=int(COLLECTIVE_TIMEOUT.total_seconds() // 60),
    )


def _groups() -> dict[str, Any]:
    return {name: value for name, value in vars(parallel_state).items() if re.fullmatch(r"_[A-Z][A-Z_]*", name)}


def _put(groups: Mapping[str, Any]) -> None:
    vars(parallel_state).update(groups)


_NONE = _groups()  # as imported: no layout is in place
