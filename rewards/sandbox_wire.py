"""What the two ends of a sandbox say to each other.

Neighbours: `sandbox` (the service's end) and `sandbox_child` (the end that runs reward functions).
Invariants: JSON only, so that nothing a scoring process writes is executed; requests are length-prefixed, answers are lines;
which unit is running stands in shared memory, so that the parent knows whom to blame without a message per unit.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

LENGTH = struct.Struct("<Q")  # bytes of the request that follows
PROGRESS_BYTES = 8  # one signed integer: position of the running unit in the batch, or one of:
IDLE = -1  # nothing has run yet
FINISHED = -2  # every unit has run, answers are on their way
LEAVING = -3  # the child ends itself because a function used up its memory
BROKEN = -4  # answers can't be written; any unit since the last answer may have done it
FLUSH_S = 0.005  # answers wait this long for company; at most this much work is done again after a kill
MAX_REASON = 500  # characters of an exception's text that are kept


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one unit: timeout_s wall time, cpu_s CPU time (0: as timeout_s). Of the process: memory_mb of addresses (MiB),
    open_files descriptors, threads. isolation: `full`, or `limits` where system calls can't be filtered."""

    timeout_s: float
    cpu_s: float = 0.0
    memory_mb: int = 2048
    open_files: int = 256
    threads: int = 64
    isolation: str = "full"

    @property
    def unit_cpu_s(self) -> float:
        return self.cpu_s or self.timeout_s


class Unit(msgspec.Struct, frozen=True, gc=False):
    """One function on one sample: indices into the batch's sample lines and the sandbox's terms."""

    sample: int
    term: int


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """What came of a unit: a finite score, or a reason why there is none.

    out_of_memory: the reason is the memory limit; parts: what the function reported beside its score, by name, finite;
    notes: its text; seconds: wall time of the call.
    """

    score: float | None
    reason: str = ""
    out_of_memory: bool = False
    parts: dict[str, float] = {}
    notes: str = ""
    seconds: float = 0.0


def pack_batch(lines: Sequence[bytes], units: Sequence[Unit]) -> bytes:
    """A request: the units as one JSON line, then the sample lines they need, length-prefixed."""
    needed = sorted({unit.sample for unit in units})
    place = {sample: i for i, sample in enumerate(needed)}
    head = json.dumps([[place[unit.sample], unit.term] for unit in units]).encode()
    body = b"\n".join([head, *(lines[sample] for sample in needed)])
    return LENGTH.pack(len(body)) + body


def unpack_batch(body: bytes) -> tuple[list[bytes], list[Unit]]:
    head, *lines = body.split(b"\n")
    return lines, [Unit(sample, term) for sample, term in json.loads(head)]
