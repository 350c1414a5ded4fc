"""What a job has to say, delivered in order by a thread; an outage of Redis only delays it.

Neighbours: `observer` puts reports in, `store` takes them. Invariants: order is kept, and only what is no JSON is left out while the
process lives; a report of an attempt that is over ends this process at once, since another may own the run by now; the last known wish
of the user holds while Redis is away.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from orchestrator.service.messages import Progress, SampledTrajectory, Wanted
from orchestrator.service.store import Store
from orchestrator.service.store_errors import Fenced, NoSuchExperiment, StoreError

POLL_S = 2.0  # how late a wish is heard when there is nothing to report
AGAIN_S = 1.0  # between two tries while Redis is away
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Report:
    """kind "": no event of its own."""

    kind: str
    data: dict[str, Any]
    progress: Progress | None = None
    mlflow_run: str = ""
    mlflow_url: str = ""
    samples: tuple[SampledTrajectory, ...] = field(default=())


class Reporter(threading.Thread):
    """store: with a short patience, since this waits by itself; on_fenced: called in this thread with the reason, ends the process."""

    def __init__(self, store: Store, id: str, attempt: int, on_fenced: Callable[[str], None]) -> None:
        super().__init__(name="reporter", daemon=True)
        self.wanted = Wanted.NOTHING
        self.asker = ""  # of what is wanted
        self._store = store
        self._id = id
        self._attempt = attempt
        self._on_fenced = on_fenced
        self._waiting: deque[Report] = deque()
        self._changed = threading.Condition()
        self._leaving = False
        self._away_since = 0.0

    def put(self, report: Report) -> None:
        with self._changed:
            self._waiting.append(report)
            self._changed.notify_all()

    def drain(self, timeout_s: float) -> bool:
        """Wait until all is delivered; False when the time is over first. At once while Redis is known to be away."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting or self._away_since > 0.0, timeout_s) and (
                not self._waiting
            )

    def close(self, timeout_s: float) -> int:
        """Deliver what is left, as far as time allows, and end. Returns how many reports were lost."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, max(0.0, deadline - time.monotonic()))
            self._leaving = True
            self._changed.notify_all()
        self.join(max(1.0, deadline - time.monotonic()))
        return len(self._waiting)

    def run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._leaving, POLL_S)
                if self._leaving:
                    return
                report = self._waiting[0] if self._waiting else None
            try:
                wanted = self._deliver(report)
                if wanted is not self.wanted:
                    self._note_wish(wanted)
            except (Fenced, NoSuchExperiment) as error:
                self._on_fenced(str(error))
                return
            except StoreError as error:
                self._note_outage(error)
                continue
            except (ValueError, TypeError) as error:  # no JSON; those behind it can be told all the same
                log.error("a report of kind %r can't be kept and is left out: %s", report.kind if report else "", error)
            with self._changed:
                if report is not None:
                    self._waiting.popleft()
                self._away_since = 0.0
                self._changed.notify_all()

    def _deliver(self, report: Report | None) -> Wanted:
        if report is None:
            return self._store.running(self._id, self._attempt)
        if report.samples:
            self._store.keep_samples(self._id, self._attempt, report.samples)
        if not report.kind:
            return self.wanted
        return self._store.report(
            self._id,
            self._attempt,
            kind=report.kind,
            data=report.data,
            progress=report.progress,
            mlflow_run=report.mlflow_run,
            mlflow_url=report.mlflow_url,
        )

    def _note_wish(self, wanted: Wanted) -> None:
        """Who asked is looked up once a wish; the newest one counts."""
        asker, after = "", "0"
        while wanted is not Wanted.NOTHING and (events := self._store.events(after, id=self._id)):
            asked = [event for event in events if event.kind == "wanted" and event.data.get("wanted") == wanted]
            asker = str(asked[-1].data.get("by", "")) if asked else asker
            after = events[-1].id
        self.asker, self.wanted = asker, wanted

    def _note_outage(self, error: StoreError) -> None:
        with self._changed:
            if not self._away_since:
                self._away_since = time.monotonic()
                log.warning("reports wait until the service's Redis answers again: %s", error)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._leaving, AGAIN_S)
