"""Publishes weights from the trainer's devices straight into engines, and leaves a copy in the object store.

What is gone once it was passed on cannot serve a rollback or a revived engine, so rank 0 keeps every version as buckets in host memory,
too; engines that need it load it from there.
Neighbours: `rollout.transfer.channel` is the way there; `outlet` opens it.
Invariants: a rank holds one tensor and one staging buffer beside its part of the model; the digest of a tensor is taken where it lies.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from actor.publishing.buckets import MIB, Published, Spot, packed
from actor.publishing.messages import Store
from rollout import Channel, Way, WeightBucket, whole_checksum, word_digest


class LivePublisher:
    """Of one trainer rank. keep: stores the copy; None on the ranks that need not."""

    def __init__(self, channel: Channel, way: Way, keep: Store | None, *, bucket_mib: int) -> None:
        self._channel, self._way, self._keep = channel, way, keep
        self._limit = bucket_mib * MIB
        self._buffer = torch.empty(0, dtype=torch.uint8, device=channel.device)

    def publish(self, number: int, tensors: Iterable[tuple[str, torch.Tensor]]) -> Published:
        """Sends all of `tensors`. Raises ChannelError; whatever they raise passes, after the engines were told."""
        sent: list[WeightBucket] = []
        self._channel.begin()
        try:
            for bucket in packed(tensors, self._limit, self._put):
                bytes_N = self._buffer[: bucket.size]
                if self._way is Way.BROADCAST:
                    self._channel.broadcast(number, len(sent), bucket, bytes_N)
                else:
                    self._channel.lend(number, len(sent), bucket, bytes_N, self._buffer)
                sent.append(WeightBucket(bucket, self._keep(bytes_N.cpu().numpy()) if self._keep else None))
        except BaseException as error:
            self._channel.fail(number, len(sent), self._way, f"{type(error).__name__}: {error}")
            raise
        entries = [entry for one in sent for entry in one.manifest.tensors]
        checksum, size = whole_checksum(entries), sum(entry.size for entry in entries)
        self._channel.end(number, len(sent), self._way, checksum)
        return Published(checksum, size, size, tuple(sent))

    def _put(self, name: str, spot: Spot, flat_N: torch.Tensor) -> str:
        if self._buffer.numel() < spot.region:
            self._buffer = torch.empty(spot.region, dtype=torch.uint8, device=self._buffer.device)
        part_N = self._buffer[spot.offset : spot.offset + flat_N.numel()]
        part_N.copy_(flat_N)
        return word_digest(part_N)

    def confirm(self, number: int) -> None:
        """Nothing to give back."""

    def close(self) -> None:
        self._channel.close()
