"""A stream of tensors packed into buckets of limited size (pure).

Neighbours: every transport of this package packs with this and says where the bytes of a tensor go.
Invariants: order is kept; a bucket starts at a multiple of the page and is no larger than the limit unless one tensor is; the same
sizes in the same order give the same places, so that what did not change can stay where it lies; the frozen encoder is never sent;
one tensor of the stream is held at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch

from rollout import SHARED_PAGE, Bucket, TensorEntry, WeightBucket

ALIGNMENT = 64  # bytes: a cache line, and more than any dtype asks for
ENCODER = "encoder."
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Published:
    """What went out. checksum: of the whole version; total_bytes: of its tensors; written_bytes: copied for it, without what lay
    there already; buckets: with their bytes, where these travel with the message."""

    checksum: str
    total_bytes: int
    written_bytes: int
    buckets: tuple[WeightBucket, ...] = ()


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a tensor goes. bucket: number; start: of the bucket, bytes from the beginning; region: bytes kept free for the bucket;
    offset: of the tensor in it."""

    bucket: int
    start: int
    region: int
    offset: int

    @property
    def position(self) -> int:
        """Bytes from the beginning."""
        return self.start + self.offset


class Packer:
    """Gives every tensor of a stream its place."""

    def __init__(self, limit_bytes: int) -> None:
        if limit_bytes < 1:
            raise ValueError(f"a bucket must hold at least one byte, got a limit of {limit_bytes}")
        self._limit = _up(limit_bytes, SHARED_PAGE)
        self._bucket, self._start, self._capacity, self._end = -1, 0, 0, 0

    def place(self, size: int) -> Spot:
        """The place of the next tensor, of `size` bytes."""
        offset = _up(self._end, ALIGNMENT)
        if self._bucket < 0 or offset + size > self._capacity:
            self._bucket += 1
            self._start += _up(self._end, SHARED_PAGE)
            self._capacity = max(self._limit, size)
            offset = 0
        self._end = offset + size
        return Spot(self._bucket, self._start, _up(self._capacity, SHARED_PAGE), offset)


def packed(
    tensors: Iterable[tuple[str, torch.Tensor]], limit_bytes: int, put: Callable[[str, Spot, torch.Tensor], str]
) -> Iterator[Bucket]:
    """Buckets as they are full. put: brings the bytes [N] of a tensor, on its own device, to their spot and returns their digest; a
    bucket is handed out before `put` is called for the next one."""
    packer, number, start = Packer(limit_bytes), 0, 0
    entries: list[TensorEntry] = []
    for name, tensor in tensors:
        if name.startswith(ENCODER):
            continue
        flat_N = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        spot = packer.place(flat_N.numel())
        if entries and spot.bucket != number:
            yield _bucket(start, entries)
            entries = []
        number, start = spot.bucket, spot.start
        digest = put(name, spot, flat_N)
        dtype = str(tensor.dtype).removeprefix("torch.")
        entries.append(TensorEntry(name, dtype, tuple(tensor.shape), spot.offset, flat_N.numel(), digest))
    if entries:
        yield _bucket(start, entries)


def _bucket(start: int, entries: list[TensorEntry]) -> Bucket:
    return Bucket(start, entries[-1].offset + entries[-1].size, tuple(entries))


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
