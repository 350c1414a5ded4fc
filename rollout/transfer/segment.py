"""Weights in shared memory: files under /dev/shm that a publisher fills and engines of the same host map.

A publisher holds a `Lease` (a locked file that names everything it owns), two `Slot`s (data files, one for the last good version, one
for the next) and a `Journal` a publish (lines that say which bytes of a slot are ready, so that engines load while the rest is written).
Plain files and not `multiprocessing.shared_memory`: its resource tracker unlinks a segment when any process that opened it ends, and an
engine that dies must not take the weights of the others along.
Neighbours: `actor.publishing.shared_memory` writes, `tail` reads.
Invariants: whatever dies, its files are removable by the next `sweep`, because the kernel drops the lease's lock with the process
(kill -9 included); a bucket is written to the journal after its bytes are in place; no write runs into a full /dev/shm (which would
kill the writer): room is taken first.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
from pathlib import Path

import numpy as np

from rollout.transfer.manifest import Bucket

SHARED_MEMORY = Path("/dev/shm")
PREFIX = "mgrd-weights-"
SHARED_PAGE = mmap.ALLOCATIONGRANULARITY
MIB = 1 << 20


class SegmentError(RuntimeError):
    """Shared memory cannot hold or give what was asked; the message names file and sizes."""


def memory_identity(folder: Path = SHARED_MEMORY) -> str:
    """Equal in two processes exactly when both see the same shared memory: the kernel's boot id and the mount's number."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}:{folder.stat().st_dev}"


class Lease:
    """A locked file `{name}.lock`; all other files of its owner start with `{name}.`."""

    def __init__(self, name: str, folder: Path = SHARED_MEMORY) -> None:
        self.base = lease_base(name, folder)
        self.path = Path(f"{self.base}.lock")
        while True:
            self._fd = os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(self._fd)
                raise SegmentError(f"{self.path} is held by another publisher; give every run its own name") from error
            if _same_file(self._fd, self.path):
                return
            os.close(self._fd)  # swept between open and lock

    def release(self) -> None:
        """Removes everything of the owner. Safe to call twice."""
        if self._fd >= 0:
            _remove(self.base)
            os.close(self._fd)
            self._fd = -1


def is_held(lock: Path) -> bool:
    """Whether the owner of a lease lives."""
    try:
        fd = os.open(lock, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def sweep(folder: Path = SHARED_MEMORY) -> list[Path]:
    """Removes what publishers that are gone left behind; the leases it found so."""
    found = []
    for lock in folder.glob(f"{PREFIX}*.lock"):
        try:
            fd = os.open(lock, os.O_RDWR)
        except (FileNotFoundError, PermissionError):  # gone by itself, or another user's
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _same_file(fd, lock):
                _remove(Path(str(lock).removesuffix(".lock")))
                found.append(lock)
        except BlockingIOError:
            continue
        finally:
            os.close(fd)
    return found


class Slot:
    """One data file, kept from version to version: its pages are there already, and writing fresh ones is ten times slower."""

    def __init__(self, lease: Lease, number: int) -> None:
        self.path = Path(f"{lease.base}.{number}.data")
        self.number: int | None = None  # of the publish it holds; None while it is written
        self.digests: dict[tuple[str, int], str] = {}  # (name, position) -> digest of the bytes that lie there
        self._fd = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        self._taken = 0
        self._maps: dict[tuple[int, int], np.ndarray] = {}

    def region(self, start: int, size: int) -> np.ndarray:
        """Bytes [size] from `start`, a multiple of the page; take room before writing into them."""
        if (start, size) not in self._maps:
            if os.fstat(self._fd).st_size < start + size:
                os.ftruncate(self._fd, start + size)
            self._maps[start, size] = np.frombuffer(mmap.mmap(self._fd, size, offset=start), np.uint8)
        return self._maps[start, size]

    def take_room(self, end: int) -> None:
        """Makes sure of memory up to byte `end`. Raises SegmentError when /dev/shm is too small."""
        if end > self._taken:
            try:
                os.posix_fallocate(self._fd, self._taken, end - self._taken)
            except OSError as error:
                disk = os.statvfs(self.path.parent)
                raise SegmentError(
                    f"{self.path.parent} has no room for {end / MIB:.0f} MiB of weights ({disk.f_bavail * disk.f_frsize / MIB:.0f} MiB "
                    f"free of {disk.f_blocks * disk.f_frsize / MIB:.0f}; two versions must fit): enlarge it (docker run --shm-size) or "
                    "set publish.transport=object_store"
                ) from error
            self._taken = end

    def close(self) -> None:
        """Gives the memory back; engines that still map it keep their pages until they let go."""
        self._maps.clear()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self.path.unlink(missing_ok=True)


class Journal:
    """What of a publish lies in a slot, line by line: a head, buckets as they are ready, an end."""

    def __init__(self, lease: Lease, slot: Slot, number: int) -> None:
        self.path = journal_path(lease.base, number)
        self.path.unlink(missing_ok=True)  # the same number again, after a failure
        head = {"number": number, "data": str(slot.path), "lock": str(lease.path)}
        unfinished = self.path.with_suffix(".new")
        self._fd = os.open(unfinished, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_APPEND, 0o600)
        self._write(json.dumps({"head": head}))
        unfinished.rename(self.path)

    def bucket(self, bucket: Bucket) -> None:
        self._write(f'{{"bucket": {bucket.to_json()}}}')

    def end(self, checksum: str) -> None:
        self._write(json.dumps({"end": checksum}))
        os.close(self._fd)

    def fail(self, why: str) -> None:
        """Tells readers that no more will come."""
        self._write(json.dumps({"failed": why}))
        os.close(self._fd)

    def _write(self, line: str) -> None:
        os.write(self._fd, f"{line}\n".encode())


def lease_base(name: str, folder: Path = SHARED_MEMORY) -> Path:
    """What all files of a publisher's lease begin with."""
    return folder / f"{PREFIX}{name}"


def journal_path(base: Path, number: int) -> Path:
    return Path(f"{base}.{number}.journal")


def lock_of(journal: Path) -> Path:
    """Of the lease that a journal belongs to."""
    return journal.with_name(f"{journal.name.rsplit('.', 2)[0]}.lock")


def _same_file(fd: int, path: Path) -> bool:
    try:
        return os.fstat(fd).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False


def _remove(base: Path) -> None:
    for path in base.parent.glob(f"{base.name}.*"):
        path.unlink(missing_ok=True)
