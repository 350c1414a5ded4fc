"""A copy of everything that waits or runs, kept up to date by what has changed since the last look.

Neighbours: `StoreReader.queued` and `active` read it, so that a scheduler's round costs what has changed, not what waits; `changes.lua`
and `slice.lua` feed it. Invariants: after a refresh it holds what Redis held at one moment of the call; a server that was started
again, perhaps with older data, is read anew; the server is never kept busy for more than some thousand experiments at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Collection

from orchestrator.service import store_text
from orchestrator.service.messages import Experiment, State
from orchestrator.service.states import ACTIVE
from orchestrator.service.store_link import Link

LIVE = (State.QUEUED, *sorted(ACTIVE))
AT_ONCE = 2000  # experiments in one reply: some milliseconds of the server


class Mirror:
    """Thread-safe. What it returns is shared between callers: nobody changes it."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._lock = threading.Lock()
        self._held: dict[str, Experiment] = {}
        self._run = ""
        self._revision = 0

    def fetch(self, states: Collection[State]) -> list[Experiment]:
        """Those in `states` (of `LIVE`), in the order in which they were queued."""
        with self._lock:
            self._refresh()
            found = [experiment for experiment in self._held.values() if experiment.state in states]
        return sorted(found, key=_age)

    def _refresh(self) -> None:
        while True:
            run, reached, here, gone = self._link.read("changes", self._revision, AT_ONCE if self._run else 1, *LIVE)
            if run != self._run:
                self._read_all(run)
                continue
            changed = store_text.EXPERIMENTS.decode(here)
            self._held.update({experiment.id: experiment for experiment in changed})
            for id in gone.split():
                self._held.pop(id, None)
            self._revision = int(reached)
            if len(changed) + gone.count(" ") + bool(gone) < AT_ONCE:
                return

    def _read_all(self, run: str) -> None:
        revision = int(
            self._link.call(lambda client: client.get(self._link.key("rev"))) or 0
        )  # later changes are read again
        self._held.clear()
        for state in LIVE:
            after = "-inf"
            while after:
                after, texts = self._link.read("slice", state, after, AT_ONCE)
                self._held.update({experiment.id: experiment for experiment in store_text.EXPERIMENTS.decode(texts)})
        self._run, self._revision = run, revision


def _age(experiment: Experiment) -> tuple[float, str]:
    return experiment.queued_at, experiment.id
