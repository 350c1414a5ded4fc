"""What the two ends of a sandbox say to each other.

Neighbours: `sandbox` (the service's end) and `sandbox_child` (the end that runs reward functions).
Invariants: nothing a scoring process writes is executed; plain scores go through shared memory (`Board`), so that a kill loses
none of them; all else is lines of JSON; which unit is running stands on the board, so that the parent knows whom to blame.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from array import array
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import repeat

import msgspec

from rewards.registry import ResolvedTerm

CAPACITY = 1024  # units of one request
MAX_REQUEST_BYTES = 8 << 20  # of sample lines in one request of more than one unit
LENGTH = struct.Struct("<Q")  # bytes of the request that follows
HEAD = struct.Struct("<I")  # units in it
FLUSH_S = (
    0.005  # what does not fit on the board waits this long for company; at most this much is done again after a kill
)
MAX_REASON = 500  # characters of an exception's text that are kept
MAX_NOTES = 4000  # characters of a function's notes that are kept
MAX_PARTS = 64  # scores reported beside the score

# Cell RUNNING of the board: position of the running unit, or one of these.
IDLE = -1  # nothing has run yet
FINISHED = -2  # every unit has run
LEAVING = -3  # the child ends itself because a function used up its memory
BROKEN = -4  # answers can't be written; any unit since the last answer may have done it
GROUP = -5  # one call for all units that are TAKEN
LOOP = -6  # TAKEN units are under way in an event loop, none of them at this moment
LOADING = -7  # cell BEAT says which term

# Status of a unit on the board.
OPEN = 0
SCORED = 1  # its score is on the board
TOLD = 2  # its outcome is in an answer
TAKEN = 3  # under way together with others


class Limits(msgspec.Struct, frozen=True):
    """Of one unit: timeout_s wall time, cpu_s CPU time (0: as timeout_s). Of the process: memory_mb of addresses (MiB),
    open_files descriptors, threads, start_s for loading one function.

    isolation: `full`, or `limits` where system calls can't be filtered; "" is what MGRD_REWARD_ISOLATION says, else full.
    """

    timeout_s: float
    cpu_s: float = 0.0
    memory_mb: int = 2048
    open_files: int = 256
    threads: int = 64
    start_s: float = 20.0  # 0.1 s when the machine is quiet; a loaded one with cold files needs seconds
    isolation: str = ""

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


@dataclass(slots=True)
class Scored:
    """Outcomes of many units, by position: a finite score, or NaN and an entry in `odd`, where also those are that have parts
    or notes beside their score. seconds: wall time of each call."""

    scores: array[float]
    seconds: array[float]
    odd: dict[int, Outcome]

    @classmethod
    def nothing(cls, count: int) -> Scored:
        return cls(array("d", [math.nan]) * count, array("d", [0.0]) * count, {})

    def outcomes(self) -> list[Outcome]:
        plain = list(map(Outcome, self.scores, repeat(""), repeat(False), repeat({}), repeat(""), self.seconds))
        for position, outcome in self.odd.items():
            plain[position] = outcome
        return plain


class Detail(msgspec.Struct, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True):
    """An outcome that is more than a number, by position in the request."""

    position: int
    score: float | None
    reason: str = ""
    out_of_memory: bool = False
    parts: dict[str, float] = {}
    notes: str = ""


class Setup(msgspec.Struct, frozen=True):
    """What a scoring process is told first. filter_program: BPF over system calls (empty: none); landlock: version of the
    kernel's file rules to use, 0 for none."""

    terms: list[ResolvedTerm]
    sys_path: list[str]
    limits: Limits
    filter_program: bytes
    landlock: int


class Board:
    """Memory both ends share: cells RUNNING and BEAT, and score, seconds and status of every unit of the current request."""

    RUNNING = 0
    BEAT = 1  # changes while an event loop is alive
    BYTES = 16 + CAPACITY * 17

    def __init__(self, descriptor: int) -> None:
        whole = memoryview(mmap.mmap(descriptor, self.BYTES))
        at = 16 + 8 * CAPACITY
        self.cells = whole[:16].cast("q")
        self.scores = whole[16:at].cast("d")
        self.seconds = whole[at : at + 8 * CAPACITY].cast("d")
        self.status = whole[at + 8 * CAPACITY :]

    @staticmethod
    def create() -> int:
        """A descriptor for both ends."""
        descriptor = os.memfd_create("reward-board")
        os.ftruncate(descriptor, Board.BYTES)
        return descriptor

    def clear(self, count: int) -> None:
        self.status[:count] = bytes(count)
        self.cells[self.RUNNING] = IDLE
        self.cells[self.BEAT] = 0


def pack_batch(lines: Sequence[bytes], units: Sequence[Unit], alone: Collection[int] = ()) -> bytes:
    """A request: every unit's line, every unit's term (inverted when the unit is to run alone), then the lines they need.

    alone: by position.
    """
    samples = [unit.sample for unit in units]
    terms = array("i", [unit.term for unit in units])
    for position in alone:
        terms[position] = ~terms[position]
    needed = dict.fromkeys(samples)
    if len(needed) < len(samples):
        place = dict(zip(needed, range(len(needed)), strict=True))
        places = array("i", map(place.__getitem__, samples))
    else:
        places = array("i", range(len(samples)))
    body = b"\n".join(map(lines.__getitem__, needed))
    size = HEAD.size + 8 * len(terms) + len(body)
    return b"".join((LENGTH.pack(size), HEAD.pack(len(terms)), places, terms, body))


def pack_block_request(block: bytes, terms: Sequence[int]) -> bytes:
    """A request: a block of samples (`sample_block`), every term for each of them. No units of their own: HEAD is 0."""
    places = array("i", terms)
    size = 2 * HEAD.size + 4 * len(places) + len(block)
    return b"".join((LENGTH.pack(size), HEAD.pack(0), HEAD.pack(len(places)), places, block))


def unpack_block_request(request: bytes) -> tuple[memoryview, array[int]] | None:
    """The block and its terms; None for a request of the other kind."""
    (units,) = HEAD.unpack_from(request)
    if units:
        return None
    (count,) = HEAD.unpack_from(request, HEAD.size)
    end = 2 * HEAD.size + 4 * count
    return memoryview(request)[end:], array("i", request[2 * HEAD.size : end])


def unpack_batch(request: bytes) -> tuple[list[bytes], array[int], array[int]]:
    """Lines; for every unit the index of its line; for every unit its term."""
    (count,) = HEAD.unpack_from(request)
    middle, end = HEAD.size + 4 * count, HEAD.size + 8 * count
    return request[end:].split(b"\n"), array("i", request[HEAD.size : middle]), array("i", request[middle:end])
