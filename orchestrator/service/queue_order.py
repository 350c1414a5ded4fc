"""Who comes before whom in the queue: priority with ageing, then fair share between users, then time.

Neighbours: `policy` states the rule in words and walks the order. Pure, arrays of one row an experiment.
Invariants: two experiments of one user, priority and turn keep the order in which they were queued; the order depends on what is
given, not on the order in which it is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from orchestrator.service.messages import Demand, Priority

LEVEL = {Priority.LOW: 0, Priority.NORMAL: 1, Priority.HIGH: 2}
SHARE_DECIMALS = (
    9  # shares that differ by less are equal: sums of floats in another order are not another order of the queue
)


class Started(Protocol):
    """What the policy reads of an experiment that has started, and perhaps ended. first_started_at: since `queued_at`, so that another
    try of it is no turn that its user has; times: seconds since 1970 UTC."""

    @property
    def user(self) -> str: ...
    @property
    def queued_at(self) -> float: ...
    @property
    def first_started_at(self) -> float: ...


class Queued(Started, Protocol):
    """What it reads of one that waits or runs; `messages.Experiment` is one."""

    @property
    def id(self) -> str: ...
    @property
    def priority(self) -> Priority: ...
    @property
    def demand(self) -> Demand: ...
    @property
    def not_before(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Shares:
    """Shares of the cluster: held by each user; asked for by each waiting experiment, one a row."""

    held: Mapping[str, float]
    asked: Sequence[float]


def queue_order(
    waiting: Sequence[Queued],
    starts: Sequence[Started],
    shares: Shares,
    age_step_s: float,
    now: float,
) -> list[int]:
    """Rows of `waiting`, first come first. starts: everything that has started and counts for the turn of its user's others."""
    if not waiting:
        return []
    by_time = sorted((e.queued_at, e.id, row) for row, e in enumerate(waiting))
    rows = np.array([row for _, _, row in by_time])
    queued_at = np.array([at for at, _, _ in by_time])
    codes: dict[str, int] = {}
    user_of_row = np.array([codes.setdefault(e.user, len(codes)) for e in waiting])
    user = user_of_row[rows]
    rank = np.array([LEVEL[e.priority] for e in waiting])[rows]
    level = rank + np.floor(np.maximum(now - _turns(queued_at, user, codes, starts), 0.0) / age_step_s)
    ahead = _ahead(level, user, np.array(shares.asked)[rows], [shares.held.get(name, 0.0) for name in codes])
    return rows[np.lexsort((ahead, -level))].tolist()  # type: ignore[no-any-return]


def _turns(
    queued_at: NDArray[np.float64], user: NDArray[np.int64], codes: Mapping[str, int], starts: Sequence[Started]
) -> NDArray[np.float64]:
    """When each one's turn began: queued, or the last first start of what its user had queued before it or at the same time."""
    turns = queued_at.copy()
    started: dict[int, list[tuple[float, float]]] = {}
    for e in starts:
        if e.user in codes:
            started.setdefault(codes[e.user], []).append((e.queued_at, e.first_started_at))
    for code, times in started.items():
        times.sort()
        queued, last = np.array(times).T
        last = np.concatenate(([0.0], np.maximum.accumulate(last)))
        mine = np.flatnonzero(user == code)
        turns[mine] = np.maximum(turns[mine], last[np.searchsorted(queued, queued_at[mine], side="right")])
    return turns


def _ahead(
    level: NDArray[np.float64], user: NDArray[np.int64], asked: NDArray[np.float64], held: Sequence[float]
) -> NDArray[np.float64]:
    """For each one, the share its user holds and asks for before it. Rows are in the order of time."""
    own = np.lexsort((-level, user))  # stable: time within a level
    sums = np.cumsum(asked[own]) - asked[own]
    first = np.concatenate(([True], np.diff(user[own]) != 0))
    offset = sums[first][np.cumsum(first) - 1]  # what other users' rows have added before this user's first
    out = np.empty_like(sums)
    out[own] = sums - offset
    return np.round(out + np.array(held)[user], SHARE_DECIMALS)
