"""All of a run's resources at once, or none: one Ray placement group for trainer ranks and engines.

Neighbours: `parts` reserves before it starts anything and hands each actor its place; `demand` says how much.
Invariants: no rank and no engine starts before every bundle is reserved; the wait has a limit; what was reserved is given back by
`release`, and by Ray itself when the driver dies.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.errors import MgrdError
from rollout import LogFile, Place

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.demand import Bundle, Demand

log = logging.getLogger(__name__)
GIB = 1 << 30


class NoPlace(MgrdError):
    """The cluster did not have room for the whole run at once within the limit; names what was asked for."""


class Gang:
    """The reservation of one run on the Ray that this process is connected to. name: shown by Ray's own tools."""

    def __init__(self, demand: Demand, name: str) -> None:
        self._demand = demand
        self._name = name
        self._group: Any = None

    def reserve(self, timeout_s: float) -> None:
        """Raises NoPlace; nothing stays reserved then."""
        from ray.util import placement_group

        bundles = [_resources(bundle) for bundle in self._demand.bundles]
        self._group = placement_group(bundles, strategy="PACK", name=self._name)
        if not self._group.wait(timeout_s):
            self.release()
            raise NoPlace(
                f"no room for {said(self._demand)} at the same time within {timeout_s:g} s: the Ray cluster has other work or is too "
                "small; free some of it, or lower actor.world_size, rollout.workers or rollout.threads"
            )
        log.info("reserved %s", said(self._demand))

    def places(self, bundles: range, log_file: Callable[[int], LogFile]) -> list[Place]:
        """One a bundle. log_file: by the number among those asked for."""
        return [Place(self._group, bundle, log_file(number)) for number, bundle in enumerate(bundles)]

    def release(self) -> None:
        """Safe to call twice, and without a reservation."""
        import ray
        from ray.util import remove_placement_group

        group, self._group = self._group, None
        if group is not None and ray.is_initialized():
            remove_placement_group(group)


def said(demand: Demand) -> str:
    """`2 x 1 CPU, 1 x 4 CPU + 1 GPU`."""
    counts: dict[Bundle, int] = {}
    for bundle in demand.bundles:
        counts[bundle] = counts.get(bundle, 0) + 1
    return ", ".join(f"{count} x {_said(bundle)}" for bundle, count in counts.items())


def _said(bundle: Bundle) -> str:
    parts: Sequence[tuple[float, str]] = ((bundle.cpus, "CPU"), (bundle.gpus, "GPU"), (bundle.memory_gib, "GiB"))
    return " + ".join(f"{amount:g} {unit}" for amount, unit in parts if amount)


def _resources(bundle: Bundle) -> dict[str, float]:
    named = {"CPU": bundle.cpus, "GPU": bundle.gpus, "memory": bundle.memory_gib * GIB}
    return {name: amount for name, amount in named.items() if amount}
