"""Publishes weights into shared memory of this host, bucket by bucket, while the engines already load.

Two slots take turns: one holds what every engine confirmed last (what a rollback or a revived engine needs), the next publish goes into
the other. `rollout.transfer.segment` tells how the files outlive nobody.
Neighbours: `rollout.transfer` reads; whoever publishes confirms.
Invariants: what was confirmed last is never overwritten; the trainer holds one tensor at a time, a slot one copy of the model; a
slot's journal is removed before its bytes change.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import torch

from actor.publishing.buckets import MIB, Published, Spot, packed
from rollout import (
    Journal,
    Lease,
    Slot,
    TensorEntry,
    copy_with_digest,
    digest_of,
    journal_path,
    sweep,
    whole_checksum,
)

log = logging.getLogger(__name__)


class SegmentPublisher:
    """Owner of the shared memory of one run on this host.

    name: of the run, unique on the host; bucket_mib: how much is announced at once; only_changed: leave in place what the slot holds
    already; keep_memory: use the slot that a confirmed publish retired for the one after next (fresh memory is ten times slower to
    write), else its memory is given back at once. Raises SegmentError when another living publisher has the name.
    """

    def __init__(
        self,
        name: str,
        *,
        bucket_mib: int = 4,
        only_changed: bool = False,
        keep_memory: bool = True,
        folder: Path | None = None,
    ) -> None:
        where = {"folder": folder} if folder else {}
        for left in sweep(**where):
            log.warning("removed weights in shared memory that a dead publisher had left (%s)", left.name)
        self._lease = Lease(name, **where)
        self._limit = bucket_mib * MIB
        self._only_changed, self._keep_memory = only_changed, keep_memory
        self._slots: list[Slot] = []
        self._made = 0
        self._confirmed: int | None = None

    def journal(self, number: int) -> Path:
        """Where engines read publish `number`; known before it is written."""
        return journal_path(self._lease.base, number)

    def publish(self, number: int, tensors: Iterable[tuple[str, torch.Tensor]]) -> Published:
        """Writes all of `tensors`; number: of the publish, never the confirmed one again. Raises SegmentError.

        Whatever `tensors` raises passes, after engines that read were told that no more comes.
        """
        slot = self._free_slot()
        journal = Journal(self._lease, slot, number)
        try:
            published = self._write(tensors, slot, journal)
        except BaseException as error:
            journal.fail(f"{type(error).__name__}: {error}")
            raise
        slot.number = number
        journal.end(published.checksum)
        return published

    def confirm(self, number: int) -> None:
        """All engines run what publish `number` brought: older ones are not needed any more."""
        self._confirmed = number
        for slot in [slot for slot in self._slots if slot.number != number]:
            self._retire(slot)
            if not self._keep_memory:
                slot.close()
                self._slots.remove(slot)

    def close(self) -> None:
        """Removes everything. Safe to call twice."""
        for slot in self._slots:
            slot.close()
        self._slots.clear()
        self._lease.release()

    def _free_slot(self) -> Slot:
        for slot in self._slots:
            if slot.number is None or slot.number != self._confirmed:
                self._retire(slot)
                return slot
        slot = Slot(self._lease, self._made)
        self._made += 1
        self._slots.append(slot)
        return slot

    def _retire(self, slot: Slot) -> None:
        if slot.number is not None:
            self.journal(slot.number).unlink(missing_ok=True)
            slot.number = None

    def _write(self, tensors: Iterable[tuple[str, torch.Tensor]], slot: Slot, journal: Journal) -> Published:
        entries: list[TensorEntry] = []
        written = 0
        stays, slot.digests = slot.digests, {}

        def put(name: str, spot: Spot, flat_N: torch.Tensor) -> str:
            nonlocal written
            source_N = flat_N.cpu().numpy()
            slot.take_room(spot.position + source_N.size)
            target_N = slot.region(spot.start, spot.region)[spot.offset : spot.offset + source_N.size]
            found = digest_of(source_N) if self._only_changed else ""
            if not found or stays.get((name, spot.position)) != found:
                found = copy_with_digest(target_N, source_N)
                written += source_N.size
            slot.digests[name, spot.position] = found
            return found

        for bucket in packed(tensors, self._limit, put):
            journal.bucket(bucket)
            entries += bucket.tensors
        return Published(whole_checksum(entries), sum(entry.size for entry in entries), written)
