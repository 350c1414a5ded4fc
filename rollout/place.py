"""Where an actor runs: a bundle of the run's placement group, and the log file it keeps there.

Neighbours: the orchestrator reserves all bundles of a run at once and hands one place to each engine and trainer rank.
Invariant: a successor of a lost actor gets its predecessor's place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rollout.logs import LogFile


@dataclass(frozen=True, slots=True)
class Place:
    """group: Ray's placement group, None where nothing is reserved; bundle: index in it; log_file: of whoever works here."""

    group: Any = None
    bundle: int = -1
    log_file: LogFile | None = None

    @property
    def reserved(self) -> bool:
        return self.group is not None

    def strategy(self, otherwise: str) -> Any:
        """Ray's scheduling strategy; `otherwise` where nothing is reserved."""
        if self.group is None:
            return otherwise
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        return PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=self.bundle)
