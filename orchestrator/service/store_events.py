"""What happened, in order: one stream for all experiments and one for each, and the bell that wakes schedulers.

Neighbours: the scripts append in the transaction that changes an experiment; `store.Store` offers these methods; `event_feed` reads the
same streams without blocking threads. Invariants: an event has the same id in both streams, ids grow, so a watcher may go on in either;
the last 100,000 events of all and 20,000 of each experiment are kept (approximately: Redis drops whole blocks).
"""

from __future__ import annotations

import re
import threading
import time
from functools import partial
from typing import Any

from orchestrator.service import store_text
from orchestrator.service.messages import Event
from orchestrator.service.store_errors import StoreError
from orchestrator.service.store_link import Link

EVENT_ID = re.compile(r"\d{1,20}(-\d{1,20})?")
SLICE_S = 2.0  # one blocking read; below the socket's time limit, so that a dead server is noticed
START = "0"


class EventLog:
    def __init__(self, link: Link) -> None:
        self._link = link
        self._heard = START
        self._hearing = threading.Lock()

    def stream(self, id: str = "") -> str:
        """Key of the stream of one experiment, or of all."""
        return self._link.key("events", id)

    def latest(self, id: str = "") -> str:
        """Where to start for what happens from now on."""
        rows = self._link.call(lambda client: client.xrevrange(self.stream(id), count=1))
        return str(rows[0][0]) if rows else START

    def read(self, after: str, id: str, limit: int, wait_s: float) -> list[Event]:
        """At most `limit` events after the event `after`, oldest first; waits up to `wait_s` seconds for the first one.

        Raises StoreError for an `after` that is no event's id.
        """
        if not EVENT_ID.fullmatch(after):
            raise StoreError(
                f"{after!r} is not an event's id: give one that the service sent, or 0 for all that are kept"
            )
        rows = self._rows(self.stream(id), after, limit, wait_s)
        return [store_text.event(row, held) for row, held in rows]

    def news(self, timeout_s: float) -> bool:
        """Whether something that concerns schedulers happened since the last call; waits up to `timeout_s` seconds for it."""
        with self._hearing:
            rows = self._rows(self._link.key("news"), self._heard, 1000, timeout_s)
            if rows:
                self._heard = rows[-1][0]
            return bool(rows)

    def _rows(self, stream: str, after: str, limit: int, wait_s: float) -> list[Any]:
        deadline = time.monotonic() + wait_s
        while True:
            left = min(SLICE_S, deadline - time.monotonic())
            block = max(1, int(left * 1000)) if left > 0 else None
            held = self._link.call(partial(_read, stream=stream, after=after, limit=limit, block=block))
            if held or left <= 0:
                return held


def _read(client: Any, *, stream: str, after: str, limit: int, block: int | None) -> list[Any]:
    held = client.xread({stream: after}, count=limit, block=block)
    return list(held[0][1]) if held else []
