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

LENGTH = struct.Struct("<Q")  # bytes of the request that follows
PROGRESS_BYTES = 8  # one signed integer: position of the running unit in the batch, or one of:
IDLE = -1  # nothing has run yet
FINISHED = -2  # every unit has run, answers are on their way
LEAVING = -3  # the child ends itself because a function used up its memory
BROKEN = -4  # answers can't be written; any unit since the last answer may have done it
FLUSH_S = 0.005  # answers wait this long for company; at most this much work is done again after a kill
MAX_REASON = 500  # characters of an exception's text that are kept


@dataclass(frozen=True, slots=True)
class Unit:
    """One function on one sample: indices into the batch's sample lines and the sandbox's terms."""

    sample: int
    term: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a unit: a finite score, or a reason. out_of_memory: the reason is the memory limit."""

    score: float | None
    reason: str = ""
    out_of_memory: bool = False


def pack_batch(lines: Sequence[bytes], units: Sequence[Unit]) -> bytes:
    """A request: the units as one JSON line, then the sample lines they need, length-prefixed."""
    needed = sorted({unit.sample for unit in units})
    place = {sample: i for i, sample in enumerate(needed)}
    head = json.dumps([[place[unit.sample], unit.term] for unit in units]).encode()
    body = b"\n".join([head, *(lines[sample] for sample in needed)])
    return LENGTH.pack(len(body)) + body


def unpack_batch(body: bytes) -> tuple[list[bytes], list[Unit]]:
    head, *lines = body.split(b"\n")
    return lines, [Unit(*unit) for unit in json.loads(head)]
