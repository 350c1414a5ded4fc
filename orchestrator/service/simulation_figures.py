"""What a simulated schedule is worth: utilisation, waiting by priority and by size, fairness between users.

Neighbours: `simulation` makes the schedule. Pure. Times are seconds of the simulation unless a name says hours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from orchestrator.service.messages import Priority
from orchestrator.service.simulation import Run, Simulated

HOUR_S = 3600.0
SHORTEST_S = 600.0  # a slowdown is bounded: runs of seconds would say nothing but that they are short


@dataclass(frozen=True, slots=True)
class Waits:
    """Hours from queued to started."""

    count: int
    p50_h: float
    p95_h: float
    max_h: float


@dataclass(frozen=True, slots=True)
class UserFigures:
    """gpu_h: GPU hours used; wait_h, slowdown: means over experiments; slowdown: time from queued to ended by running time."""

    user: str
    experiments: int
    gpu_h: float
    wait_h: float
    slowdown: float


@dataclass(frozen=True, slots=True)
class Figures:
    """utilisation: of all GPU time from the first submission to the last; makespan_h: to the last end; never_started: how many;
    by_priority, by_size (GPUs); users: most GPU hours first; fairness: Jain's index of the users' mean waits, 1 when all wait alike,
    1/users when one does all the waiting; light_wait_h, heavy_wait_h: mean over users of their mean wait, the half with the fewest
    GPU hours and the tenth with the most."""

    utilisation: float
    makespan_h: float
    never_started: int
    waits: Waits
    by_priority: dict[str, Waits]
    by_size: dict[str, Waits]
    users: tuple[UserFigures, ...]
    fairness: float
    light_wait_h: float
    heavy_wait_h: float


def figures(simulated: Simulated, gpus: float) -> Figures:
    """gpus: of the whole cluster. At least one experiment must have run."""
    runs = simulated.runs
    last_s = max(run.experiment.queued_at for run in runs)
    users = _users(runs)
    light, heavy = users[len(users) // 2 :], users[: max(1, len(users) // 10)]
    return Figures(
        utilisation=busy(runs, 0.0, last_s) / (gpus * last_s) if last_s else 0.0,
        makespan_h=max(run.ended_at for run in runs) / HOUR_S,
        never_started=len(simulated.left),
        waits=_waits(runs),
        by_priority=_by(runs, lambda run: str(run.experiment.priority), [str(p) for p in Priority]),
        by_size=_by(runs, _size, sorted({_size(run) for run in runs}, key=float)),
        users=tuple(users),
        fairness=_jain([user.wait_h for user in users]),
        light_wait_h=fmean(user.wait_h for user in light),
        heavy_wait_h=fmean(user.wait_h for user in heavy),
    )


def busy(runs: Sequence[Run], start_s: float, end_s: float) -> float:
    """GPU seconds in use between two times."""
    return sum(
        run.experiment.demand.gpus * max(0.0, min(run.ended_at, end_s) - max(run.started_at, start_s)) for run in runs
    )


def _size(run: Run) -> str:
    return f"{run.experiment.demand.gpus:g}"


def _by(runs: Sequence[Run], key: Callable[[Run], str], keys: Sequence[str]) -> dict[str, Waits]:
    members: dict[str, list[Run]] = {k: [] for k in keys}
    for run in runs:
        members[key(run)].append(run)
    return {k: _waits(members[k]) for k in keys if members[k]}


def _waits(runs: Sequence[Run]) -> Waits:
    hours = np.array([run.wait_s for run in runs]) / HOUR_S
    p50, p95 = np.quantile(hours, [0.5, 0.95])
    return Waits(len(runs), float(p50), float(p95), float(hours.max()))


def _users(runs: Sequence[Run]) -> list[UserFigures]:
    members: dict[str, list[Run]] = {}
    for run in runs:
        members.setdefault(run.experiment.user, []).append(run)
    return sorted((_user(user, own) for user, own in members.items()), key=lambda user: (-user.gpu_h, user.user))


def _user(user: str, runs: Sequence[Run]) -> UserFigures:
    return UserFigures(
        user,
        len(runs),
        sum(run.experiment.demand.gpus * run.experiment.duration_s for run in runs) / HOUR_S,
        fmean(run.wait_s for run in runs) / HOUR_S,
        fmean((run.wait_s + run.experiment.duration_s) / max(run.experiment.duration_s, SHORTEST_S) for run in runs),
    )


def _jain(values: Sequence[float]) -> float:
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0
