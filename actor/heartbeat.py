"""Whether the ranks of a call still live and get on: a rule over their signs of life, without Ray and without a clock.

Neighbours: `actor.group` asks the ranks and tells this what they answered; `actor.phases` makes the answers. Invariants: a rank is found
silent only after `hang_s` in which somebody looked, so a driver that was itself stopped blames nobody; ranks that answer are never
silent, however long their phase takes; that is a matter of `progress_s`, the time in which no rank entered another phase.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum

from actor.phases import Beat


class Failure(StrEnum):
    """How a rank failed. Of these only `RAISED` would happen again as surely as it did."""

    DIED = "died"  # its process ended
    HUNG = "hung"  # no sign of life: stopped, frozen, its machine away
    STUCK = "stuck"  # it lives, but gets no further
    LATE = "late"  # it did not start in time
    CUT_OFF = "cut off"  # it lost a peer in a collective
    RAISED = "raised"  # an exception
    UNENDED = "unended"  # some rank could not be ended, so that another world would meet it


@dataclass(frozen=True, slots=True)
class WatchLimits:
    """heartbeat_s: from a sign of life to the next question; hang_s: of silence, from the last sign of life, after which a rank hangs,
    above the longest time that one operation may hold Python's interpreter lock; teardown_s: from a failure until every rank has
    ended."""

    heartbeat_s: float = 5.0
    hang_s: float = 60.0
    teardown_s: float = 60.0

    def __post_init__(self) -> None:
        if not 0 < 2 * self.heartbeat_s <= self.hang_s:
            raise ValueError(
                f"heartbeat_s ({self.heartbeat_s:g}) must be above 0 and at most half of hang_s ({self.hang_s:g})"
            )
        if self.teardown_s <= 0:
            raise ValueError(f"teardown_s must be above 0, got {self.teardown_s:g}")


@dataclass(frozen=True, slots=True)
class Finding:
    """rank: whose fault it looks like; seconds: of silence, or without progress."""

    failure: Failure
    rank: int
    seconds: float


class Watch:
    """Over one call. ranks: all of the world; times are seconds of one clock that never goes back."""

    def __init__(self, ranks: Iterable[int], limits: WatchLimits, progress_s: float, now: float) -> None:
        self._limits = limits
        self._progress_s = progress_s
        self._heard = dict.fromkeys(ranks, now)  # the last sign of life; the call itself is one
        self._open: set[int] = set()  # asked, not answered
        self._progress_at = now
        self._looked_at = now
        self.beats: dict[int, Beat] = {}  # the last of each rank

    def look(self, now: float) -> None:
        """Somebody looks; to be called at least every `heartbeat_s`. Time in which nobody did counts for no rank."""
        away = now - self._looked_at - self._limits.heartbeat_s
        self._looked_at = now
        if away > self._limits.heartbeat_s:
            self._heard = {rank: at + away for rank, at in self._heard.items()}
            self._progress_at += away

    def due(self, now: float) -> list[int]:
        """Ranks to be asked now."""
        every_s = self._limits.heartbeat_s
        return [rank for rank, at in self._heard.items() if rank not in self._open and now - at >= every_s]

    def asked(self, rank: int) -> None:
        self._open.add(rank)

    def heard(self, rank: int, beat: Beat, now: float) -> None:
        self._open.discard(rank)
        self._heard[rank] = now
        before = self.beats.get(rank)
        if before is None or before.entered != beat.entered:
            # The phase began `seconds` ago, which may be long before this call or this look.
            self._progress_at = max(self._progress_at, now - beat.seconds)
        self.beats[rank] = beat

    def finding(self, waiting: Collection[int], now: float) -> Finding | None:
        """waiting: ranks that have not returned from the call; those that have are not missed. None: all is well."""
        silent = {rank: now - self._heard[rank] for rank in self._open if rank in waiting}
        if silent:
            rank = max(silent, key=lambda r: (silent[r], -r))
            if silent[rank] >= self._limits.hang_s:
                return Finding(Failure.HUNG, rank, silent[rank])
        still = now - self._progress_at
        if waiting and still >= self._progress_s:
            return Finding(Failure.STUCK, self._last_to_move(waiting), still)
        return None

    def _last_to_move(self, waiting: Collection[int]) -> int:
        """Ranks wait for the one that does not come: it has been in its phase for longer than those that came and wait."""
        known = [rank for rank in waiting if rank in self.beats]
        return max(known, key=lambda rank: (self.beats[rank].seconds, -rank)) if known else min(waiting)
