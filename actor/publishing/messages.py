"""Publishes weights as buckets that travel with a message: their bytes in Ray's object store, or in the message itself.

Neighbours: `rollout.worker` fetches what its engine wants; a critic on ranks of its own begins with a whole update.
Invariants: one bucket at a time is held beside what was handed on; a bucket of which nothing changed is handed on again, and its
bytes are stored once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch

from actor.publishing.buckets import MIB, Published, Spot, packed
from rollout import Bucket, TensorEntry, WeightBucket, WeightUpdate, copy_with_digest, whole_checksum

Store = Callable[[np.ndarray], object]  # takes bytes [N], keeps a copy, returns what stands for them
WHOLE_MIB = 64  # buckets of an update that travels as one


class MessagePublisher:
    """bucket_mib: largest bucket; only_changed: hand on a bucket again where no tensor in it has changed."""

    def __init__(self, store: Store, *, bucket_mib: int, only_changed: bool = False) -> None:
        self._store = store
        self._limit = bucket_mib * MIB
        self._only_changed = only_changed
        self._last: dict[Bucket, WeightBucket] = {}

    def publish(self, number: int, tensors: Iterable[tuple[str, torch.Tensor]]) -> Published:
        """Stores all of `tensors`; number: of the publish. Whatever they raise passes."""
        buckets, written = [], 0
        buffer_N = np.empty(0, np.uint8)

        def put(name: str, spot: Spot, flat_N: torch.Tensor) -> str:
            nonlocal buffer_N
            source_N = flat_N.cpu().numpy()
            if buffer_N.size < spot.region:
                buffer_N = np.empty(spot.region, np.uint8)
            target_N = buffer_N[spot.offset : spot.offset + source_N.size]
            return copy_with_digest(target_N, source_N)

        for bucket in packed(tensors, self._limit, put):
            known = self._last.get(bucket)
            if known is None:
                known = WeightBucket(bucket, self._store(buffer_N[: bucket.size]))
                written += bucket.size
            buckets.append(known)
        self._last = {one.manifest: one for one in buckets} if self._only_changed else {}
        entries = [entry for one in buckets for entry in one.manifest.tensors]
        return Published(whole_checksum(entries), sum(entry.size for entry in entries), written, tuple(buckets))

    def confirm(self, number: int) -> None:
        """Nothing to give back: buckets live as long as somebody refers to them."""

    def close(self) -> None:
        self._last = {}


def whole_update(version: int, tensors: Iterable[tuple[str, torch.Tensor]]) -> WeightUpdate:
    """All of `tensors` in one message, bytes included."""
    published = MessagePublisher(lambda bytes_N: bytes_N.tobytes(), bucket_mib=WHOLE_MIB).publish(0, tensors)
    return WeightUpdate(version, published.checksum, published.buckets)


def update_tensors(update: WeightUpdate) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors of a whole update by checkpoint name, copied."""
    for bucket in update.buckets:
        for entry in bucket.manifest.tensors:
            yield entry.name, _tensor(entry, bucket.data)


def payload_tensors(update: WeightUpdate) -> dict[str, torch.Tensor]:
    """All of `update_tensors` at once."""
    return dict(update_tensors(update))


def _tensor(entry: TensorEntry, data: bytes) -> torch.Tensor:
    dtype = getattr(torch, entry.dtype)
    part = bytearray(data[entry.offset : entry.offset + entry.size])
    return torch.frombuffer(part, dtype=dtype).reshape(entry.shape) if part else torch.empty(entry.shape, dtype=dtype)
