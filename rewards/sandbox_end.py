"""How far a scoring process came with a request, and what stopped it.

Neighbours: `sandbox_process` asks `Watch` at every tick and makes a `BatchEnd`; `sandbox` reads it.
Invariants: foreign code shares the writing process, so nothing it wrote is taken for granted; a limit that earlier units may have
used up (CPU time and threads belong to the process) makes a unit doubtful, not guilty.
"""

from __future__ import annotations

import math
import time
from array import array
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from rewards.sandbox_wire import GROUP, IDLE, LOOP, SCORED, TAKEN, Board, Detail, Limits, Outcome

TICK_S = 0.05  # how late a limit may be noticed
FIRST_TICK_S = 0.002  # a request's first unit is timed more closely: often it is the only one
IDLE_LIMIT_S = 20.0  # for what is not a unit: starting on a request, saying that it is through
CLOCK_OF_PROCESS = 2  # CPU time; the kernel's clock number of process p is ~p << 3 | this
ONLY_SCORED = bytes(status == SCORED for status in range(256))

_details = msgspec.json.Decoder(list[Detail] | None)


class BrokenChannel(Exception):
    """What came through the channel is not an answer."""


def read_details(line: bytes, count: int) -> list[Detail] | None:
    """Outcomes in an answer, None when it says that all is done. Raises BrokenChannel."""
    try:
        found = _details.decode(line)
    except msgspec.MsgspecError as error:
        raise BrokenChannel("wrote what is not an outcome") from error
    if found is not None and not all(_makes_sense(detail, count) for detail in found):
        raise BrokenChannel("wrote what is not an outcome")
    return found


def _makes_sense(detail: Detail, count: int) -> bool:
    scored = detail.score is not None and math.isfinite(detail.score)
    numbers = all(math.isfinite(part) for part in detail.parts.values())
    return 0 <= detail.position < count and numbers and (scored or (detail.score is None and bool(detail.reason)))


@dataclass(slots=True)
class BatchEnd:
    """scores, seconds: by position; scored: which positions have a score there; odd: outcomes that are more than a score;
    alive: whether the process can take another request; began: whether any unit has run.

    Of one that is not alive: blamed: position of the unit that hung or ended the process, None when it may have been any;
    together: positions that were under way when it ended, by no fault that can be told apart; reason: what happened;
    doubtful: it may be due to units before; broken: what was wrong with what it wrote (then nothing of it counts).
    """

    scores: array[float] = field(default_factory=lambda: array("d"))
    seconds: array[float] = field(default_factory=lambda: array("d"))
    scored: bytes = b""
    odd: dict[int, Outcome] = field(default_factory=dict)
    alive: bool = False
    began: bool = False
    blamed: int | None = None
    together: tuple[int, ...] = ()
    reason: str = ""
    doubtful: bool = False
    broken: str = ""

    def read(self, board: Board, details: list[Detail], count: int, running: int) -> None:
        """Takes outcomes from the board and the answers, and tells who was at work."""
        status = bytes(board.status[:count])
        self.scores = array("d", bytes(board.scores[:count].cast("B")))
        self.seconds = array("d", bytes(board.seconds[:count].cast("B")))
        self.scored = status.translate(ONLY_SCORED)
        if not all(map(math.isfinite, self.scores)):
            self.scored = bytes(
                done and math.isfinite(score) for done, score in zip(self.scored, self.scores, strict=True)
            )
        for detail in details:
            self.odd[detail.position] = Outcome(
                detail.score,
                detail.reason,
                detail.out_of_memory,
                detail.parts,
                detail.notes,
                self.seconds[detail.position],
            )
        if self.alive:
            return
        if 0 <= running < count:
            self.blamed = None if self.scored[running] or running in self.odd else running
        elif running in (GROUP, LOOP):
            self.together = tuple(i for i in range(count) if status[i] == TAKEN and i not in self.odd)
            if len(self.together) == 1:
                self.blamed = self.together[0]


class Watch:
    """Clocks of one process."""

    def __init__(self, pid: int, limits: Limits) -> None:
        self._limits = limits
        self._clock = (~pid << 3) | CLOCK_OF_PROCESS
        self._status = Path(f"/proc/{pid}/stat")
        self._own_threads = 1
        self._seen = (IDLE, 0)
        self._since = self._cpu_since = 0.0
        self._tick_s = FIRST_TICK_S

    def ready(self) -> None:
        """Loaded functions' own threads are not due to a unit."""
        self._own_threads = self._threads()

    @property
    def running(self) -> int:
        """What cell RUNNING said when it was last looked at."""
        return self._seen[0]

    def begin(self) -> None:
        self._seen, self._since, self._cpu_since = (IDLE, 0), time.monotonic(), self._cpu()
        self._tick_s = FIRST_TICK_S

    def tick(self) -> float:
        """Seconds until the next look: at most TICK_S, and until the running unit's time is up."""
        now = time.monotonic()
        wait_s = min(self._tick_s, max(FIRST_TICK_S, self._since + self._limits.timeout_s - now))
        self._tick_s = min(2 * self._tick_s, TICK_S)
        return wait_s

    def over_limit(self, cells: memoryview) -> tuple[str, bool]:
        """What the running unit has gone over, empty for nothing; and whether units before it may have caused that."""
        seen = (cells[Board.RUNNING], cells[Board.BEAT])
        cpu_s, limits = self._cpu(), self._limits
        now = time.monotonic()  # read after cpu_s: one busy thread never seems to have computed longer than it ran
        if seen != self._seen:
            self._seen, self._since, self._cpu_since = seen, now, self._cpu()
            return "", False
        threads = self._threads()
        at_work = seen[0] >= 0 or seen[0] in (GROUP, LOOP)
        if now - self._since > (limits.timeout_s if at_work else IDLE_LIMIT_S):
            return f"timed out after {limits.timeout_s:.1f} s and was killed", threads > self._own_threads
        if at_work and cpu_s - self._cpu_since > limits.unit_cpu_s:
            return f"used more than {limits.unit_cpu_s:.1f} s of CPU time and was killed", True
        if threads > limits.threads:
            return f"started more than {limits.threads} threads and was killed", True
        return "", False

    def _cpu(self) -> float:
        """Seconds all threads of the process have computed."""
        try:
            return time.clock_gettime(self._clock)
        except OSError:  # it is gone
            return 0.0

    def _threads(self) -> int:
        try:
            fields = self._status.read_text().rpartition(")")[2].split()
        except OSError:  # it is gone
            return 0
        return int(fields[17])
