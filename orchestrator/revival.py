"""Whether a trainer that died is started again within the run: a rule over deaths and the progress between them.

Neighbours: `conductor` asks at every death and starts the trainer; `run_report` hands the record on. Invariants: an exception of the work
itself is never tried again; deaths count as long as nothing durable happened between them, so a cause that comes back at the same
place ends the run; what happened is in the run's state before the trainer starts again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actor import TrainerDied
from orchestrator.manifest import digest_of


class Revivals:
    """state: of the run, where deaths are kept under `trainer_deaths`; most: deaths without progress between them after which the
    trainer is started again."""

    def __init__(self, state: dict[str, Any], most: int) -> None:
        self._state = state
        self._most = most

    @property
    def deaths(self) -> list[dict[str, Any]]:
        """Of this run, also before it was resumed."""
        deaths: list[dict[str, Any]] = self._state.setdefault("trainer_deaths", [])
        return deaths

    def take(self, death: TrainerDied) -> dict[str, Any] | None:
        """Keeps a death. None: it ends the run, and a note on it says why; otherwise the record of it, which gets `start_s` once the
        trainer is up again."""
        working: Mapping[str, Any] = self._state.get("working", {})
        record = {
            "stage": working.get("stage", ""),
            "rank": death.rank,
            "phase": death.phases.get(death.rank, ""),
            "failure": str(death.failure),
            "cause": death.cause,
            "checkpoint": working.get("checkpoint", ""),
            "kept": digest_of(working),
            "start": self._state.get("starts", 0),
        }
        if not death.can_start_again:
            return None
        self.deaths.append(record)
        in_a_row = self.in_a_row()
        if in_a_row > self._most:
            death.add_note(f"the trainer died {in_a_row} times at the same place (actor.restarts={self._most})")
            return None
        return record

    def in_a_row(self) -> int:
        """The last deaths of this start of the run that had nothing durable between them."""
        count = 0
        for record in reversed(self.deaths):
            if (record["kept"], record["start"]) != (self.deaths[-1]["kept"], self.deaths[-1]["start"]):
                break
            count += 1
        return count
