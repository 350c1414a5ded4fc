"""What single users may hold at a time, and how much of it is left in a round.

Neighbours: `policy` asks before it starts something, intake asks `beyond_quota` before it takes something in. Pure.
Invariant: what a user holds and starts never adds up to more than the quota.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.service import wording
from orchestrator.service.messages import Demand, Quota
from orchestrator.service.queue_order import Queued
from orchestrator.service.shapes import CPUS, GPUS, MEMORY, SCALE, Shape, shape_of

COUNT = 3  # beside the columns of amounts


class UserQuotas:
    """One round's account. `quota` is everybody's whom `quotas` does not name."""

    def __init__(self, quota: Quota, quotas: Mapping[str, Quota], running: Sequence[Queued]) -> None:
        self._quota, self._quotas = quota, quotas
        self._used: dict[str, list[int]] = {}  # GPUs, CPUs, memory, experiments
        self._kept: dict[str, str] = {}  # user → the experiment that gets what the quota has left
        for e in running:
            self.start(e.user, shape_of(e.demand))

    def held(self) -> dict[str, tuple[int, int, int]]:
        """What each user's experiments hold together."""
        return {user: (used[GPUS], used[CPUS], used[MEMORY]) for user, used in self._used.items()}

    def limits(self, user: str) -> bool:
        quota = self._quotas.get(user, self._quota)
        return bool(quota.gpus or quota.cpus or quota.running)

    def start(self, user: str, shape: Shape) -> None:
        used = self._used.setdefault(user, [0, 0, 0, 0])
        for resource, amount in enumerate(shape.whole):
            used[resource] += amount
        used[COUNT] += 1

    def keep(self, user: str, id: str) -> None:
        """From here on this user's others leave what the quota has left to this one."""
        self._kept.setdefault(user, id)

    def refusal(self, user: str, shape: Shape) -> str:
        """Why the user can't start it now; "" when the quota has room."""
        quota = self._quotas.get(user, self._quota)
        if user in self._kept:
            return f"the quota of {user} is kept for {self._kept[user]}, waiting longer"
        used = self._used.get(user, (0, 0, 0, 0))
        if quota.running and used[COUNT] + 1 > quota.running:
            return f"{user} may run {quota.running} at a time, as many are running"
        for limit, resource in ((quota.gpus, GPUS), (quota.cpus, CPUS)):
            if limit and used[resource] + shape.whole[resource] > _units(limit):
                return (
                    f"needs {wording.quantity(shape.whole[resource], resource)}, the quota of {user} is "
                    f"{wording.number(_units(limit))}, of which {wording.number(used[resource])} are in use"
                )
        return ""

    def beyond(self, user: str, shape: Shape) -> str:
        return _beyond(shape, self._quotas.get(user, self._quota), user)


def beyond_quota(demand: Demand, quota: Quota, user: str) -> str:
    """Why this user can never start it, even with nothing else running; "" when the quota has room for it."""
    return _beyond(shape_of(demand), quota, user)


def _beyond(shape: Shape, quota: Quota, user: str) -> str:
    for limit, resource in ((quota.gpus, GPUS), (quota.cpus, CPUS)):
        if limit and shape.whole[resource] > _units(limit):
            return f"asks for {wording.quantity(shape.whole[resource], resource)}, the quota of {user} is {limit:g}"
    return ""


def _units(limit: float) -> int:
    return round(limit * SCALE)
