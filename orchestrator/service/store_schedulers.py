"""Who decides, and when it last did: one line a scheduler, in Redis.

Neighbours: every scheduler notes each of its rounds, the API's readiness and metrics read them. Invariant: a line is replaced as a whole; a
scheduler that is silent for a day is forgotten.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import msgspec

from orchestrator.service import store_text
from orchestrator.service.store_link import Link

FORGOTTEN_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class SchedulerLine:
    """at: of its last round, seconds since 1970; decisions: how many of each kind since it started (`started`, `adopted`, `retried`,
    `settled`, …); decide_s: time that the last decision took; note: what ails it, "" nothing."""

    name: str
    at: float
    decisions: dict[str, int] = field(default_factory=dict)
    decide_s: float = 0.0
    note: str = ""


class Schedulers:
    """Thread-safe. Raises StoreError."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._key = link.key("schedulers")

    def note(self, line: SchedulerLine) -> None:
        """A scheduler's round is over."""
        self._link.call(lambda client: client.hset(self._key, line.name, store_text.text(line)))

    def all(self) -> list[SchedulerLine]:
        """By name; those that were heard of within a day."""
        held = self._link.call(lambda client: client.hgetall(self._key))
        lines = [msgspec.json.decode(one, type=SchedulerLine) for one in held.values()]
        old = [line.name for line in lines if time.time() - line.at > FORGOTTEN_S]
        if old:
            self._link.call(lambda client: client.hdel(self._key, *old))
        return sorted((line for line in lines if line.name not in old), key=lambda line: line.name)
