"""What this rank is doing, said by the code that does it: for whoever watches the rank, and for whoever finds it dead.

Neighbours: `actor.worker` and the code of a step enter phases; `TrainerWorker.beat` answers with the present one; `actor.faults` may
strike there. Invariants: one rank a process; entering costs microseconds; the record outlives kill -9, since the kernel holds it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from actor import faults

IDLE = "waiting for a call"
RECORD_BYTES = 160


@dataclass(frozen=True, slots=True)
class Beat:
    """A sign of life. phase: what the rank does; entered: phases entered since its process began; seconds: in the present one."""

    phase: str
    entered: int
    seconds: float


class _Rank:
    """This process. file: descriptor of the record, None without one; present: phase, entered, since, replaced as a whole, since
    another thread reads it; beside: what a thread of its own does meanwhile, "" for nothing."""

    def __init__(self) -> None:
        self.rank = 0
        self.file: int | None = None
        self.present = ("starting", 0, time.monotonic())
        self.beside = ""


_this = _Rank()


def begin(rank: int, record: Path | None) -> None:
    """This process is that rank from now on. record: file that always holds the present phase."""
    _this.rank = rank
    if record is not None:
        record.parent.mkdir(parents=True, exist_ok=True)
        _this.file = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)


def enter(phase: str, detail: str = "") -> None:
    """From now on the rank is in `phase`; detail: said to people beside it (`3/7`)."""
    _this.present = (f"{phase} {detail}" if detail else phase, _this.present[1] + 1, time.monotonic())
    _record()
    faults.strike(_this.rank, phase)


@contextmanager
def within(phase: str) -> Iterator[None]:
    """A call of the driver's: `phase` until code inside enters another, idle afterwards. One that raises stays where it was."""
    enter(phase)
    yield
    enter(IDLE)


@contextmanager
def beside(phase: str) -> Iterator[None]:
    """Work that may be a thread of its own, beside the phases of the calls; one at a time."""
    _this.beside = phase
    _record()
    faults.strike(_this.rank, phase)
    try:
        yield
    finally:
        _this.beside = ""
        _record()


def beat() -> Beat:
    """Called from a thread of its own; needs the GIL and nothing else."""
    _, entered, since = _this.present
    return Beat(_said(), entered, time.monotonic() - since)


def recorded(record: Path) -> str:
    """The phase that a rank entered last, dead or alive; "" where nothing can be read."""
    try:
        return record.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _said() -> str:
    return " beside ".join(filter(None, (_this.beside, _this.present[0])))


def _record() -> None:
    if _this.file is not None:
        os.pwrite(_this.file, f"{_said():<{RECORD_BYTES - 1}.{RECORD_BYTES - 1}}\n".encode("ascii", "replace"), 0)
