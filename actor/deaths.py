"""The error that ends a trainer world, with all that is known of the rank that ended it.

Neighbours: `actor.group` raises it, `orchestrator` decides by `failure` whether another world helps. Invariant: the message names rank,
process, machine, what it was doing, what the other ranks were doing, and the rank's log file, as far as each is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from actor.heartbeat import Failure
from actor.ranks import RankProcess

LAST_BYTES = 16384  # of a log file are read for its last lines


class TrainerDied(RuntimeError):
    """A trainer rank failed, and with it the world. rank: which one; cause: what it said, or what was seen; process: its own; phases:
    what each rank did last, by rank; log_file: its own, "" without one."""

    def __init__(
        self,
        rank: int,
        cause: str,
        failure: Failure = Failure.RAISED,
        *,
        process: RankProcess | None = None,
        phases: Mapping[int, str] | None = None,
        log_file: str = "",
    ) -> None:
        phases = dict(phases or {})
        whose = f" ({process})" if process else ""
        doing = "; ".join(
            [f"it was in {phase!r}" for one, phase in phases.items() if one == rank]
            + [f"rank {other} in {phase!r}" for other, phase in phases.items() if other != rank]
        )
        super().__init__(
            f"trainer rank {rank}{whose}: {cause}"
            + (f"; {doing}" if doing else "")
            + (f"; its log: {log_file}" if log_file else "")
        )
        self.rank = rank
        self.cause = cause
        self.failure = failure
        self.process = process
        self.phases = phases
        self.log_file = log_file

    @property
    def was_lost(self) -> bool:
        """Machine, process or network failed, not the work: the same work on another world may succeed."""
        return self.failure is not Failure.RAISED

    @property
    def can_start_again(self) -> bool:
        """Another world may be started here and now: nothing is left of this one."""
        return self.was_lost and self.failure is not Failure.UNENDED


def last_lines(log_file: str, count: int = 12) -> list[str]:
    """Of a log file that this machine can read; [] otherwise."""
    try:
        with Path(log_file).open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - LAST_BYTES))
            return file.read().decode("utf-8", "replace").splitlines()[-count:]
    except OSError:
        return []
