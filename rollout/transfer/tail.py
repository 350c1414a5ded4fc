"""Reading a journal while it is written: buckets as soon as their bytes are in shared memory.

Neighbours: `segment` says what is in the files; `reception` loads what comes out of here.
Invariants: every wait has a limit; a publisher that died, failed or wrote nonsense ends the reading with its reason, never with a
part of the weights taken for all; mapped bytes are private to the reader, so that nothing an engine does changes them for others.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rollout.transfer.manifest import Bucket
from rollout.transfer.segment import SHARED_PAGE, SegmentError, is_held, lock_of

NAP_S = 50e-6  # a bucket of 16 MiB takes a millisecond
LONGEST_NAP_S = 5e-3
ALIVE_EVERY_S = 0.1


class SegmentView:
    """Slots as an engine maps them, kept from version to version: a second look at the same pages is twice as fast."""

    def __init__(self) -> None:
        self._maps: dict[tuple[str, int, int, int], np.ndarray] = {}

    def bytes_of(self, data: str, bucket: Bucket) -> np.ndarray:
        """Bytes [size] of a bucket. Raises SegmentError when they are gone."""
        try:
            fd = os.open(data, os.O_RDONLY)
        except OSError as error:
            raise SegmentError(
                f"{data} cannot be opened: {error.strerror}; its publisher is gone or on another host"
            ) from error
        try:
            size = -(-max(bucket.size, 1) // SHARED_PAGE) * SHARED_PAGE
            status = os.fstat(fd)
            key = (data, status.st_ino, bucket.start, size)
            if key not in self._maps:
                if status.st_size < bucket.start + bucket.size:
                    raise SegmentError(
                        f"{data} holds {status.st_size} bytes, the bucket at {bucket.start} ends beyond them"
                    )
                mapped = mmap.mmap(
                    fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE, offset=bucket.start
                )
                self._maps[key] = np.frombuffer(mapped, np.uint8)
        finally:
            os.close(fd)
        return self._maps[key][: bucket.size]

    def forget_removed(self) -> None:
        """Lets go of files that are no longer there, whose memory is held by nothing but this."""
        there = {(data, inode): _inode(data) == inode for data, inode, _, _ in self._maps}
        self._maps = {key: mapped for key, mapped in self._maps.items() if there[key[:2]]}


def buckets_of(journal: Path, number: int, limit_s: float) -> Iterator[tuple[str, Bucket] | str]:
    """(data file, bucket) in the order written, then the checksum of the whole. Raises SegmentError."""
    deadline = time.monotonic() + limit_s
    lines = _lines(journal, deadline)
    head = next(lines)["head"]
    if head["number"] != number:
        raise SegmentError(f"{journal} holds publish {head['number']}, not {number}")
    for line in lines:
        if "bucket" in line:
            try:
                bucket = Bucket.from_dict(line["bucket"])
            except (ValueError, TypeError, KeyError) as error:
                raise SegmentError(f"{journal}: {error}") from error
            yield head["data"], bucket
        elif "end" in line:
            yield str(line["end"])
            return
        else:
            raise SegmentError(f"the publisher gave up on publish {number}: {line['failed']}")


def _lines(journal: Path, deadline: float) -> Iterator[dict[str, Any]]:
    """Whole lines as they appear; never ends by itself. The publisher must hold its lease before anybody waits for its journal."""
    fd, rest, lock = -1, b"", lock_of(journal)
    nap_s, looked, gone = NAP_S, time.monotonic(), False
    try:
        while True:
            if fd < 0:
                with contextlib.suppress(FileNotFoundError):
                    fd = os.open(journal, os.O_RDONLY)
            new = os.read(fd, 1 << 20) if fd >= 0 else b""
            *whole, rest = (rest + new).split(b"\n")
            for text in whole:
                try:
                    line = json.loads(text)
                except ValueError as error:
                    raise SegmentError(f"{journal} is damaged: {error}") from error
                yield line
            if new:
                nap_s = NAP_S
                continue
            now = time.monotonic()
            if gone:  # and its last words have been read
                raise SegmentError(f"the publisher of {journal} died before its weights were complete")
            if now > deadline:
                raise SegmentError(f"{journal} was not complete in time: the publisher is slow or stuck")
            if now - looked > ALIVE_EVERY_S:
                looked, gone = now, not is_held(lock)
            time.sleep(nap_s)
            nap_s = min(2 * nap_s, LONGEST_NAP_S)
    finally:
        if fd >= 0:
            os.close(fd)


def _inode(path: str) -> int:
    try:
        return Path(path).stat().st_ino
    except FileNotFoundError:
        return -1
