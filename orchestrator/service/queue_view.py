"""Why who waits, as the last decision saw it: kept in Redis for everybody who asks.

Neighbours: `scheduler` writes it after each decision, the API reads it. Invariants: replaced as a whole; only the front of the queue is
told, further back a place is all there is to say; it fades when no scheduler decides any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from orchestrator.service import store_text
from orchestrator.service.policy import Decision
from orchestrator.service.store_link import Link

FRONT = 1000  # told with their reasons: what people look at, and a fraction of a millisecond of Redis
FADES_S = 120


@dataclass(frozen=True, slots=True)
class Waiting:
    """why: see `policy.Why`; before: how many that wait for room or quota come before it."""

    id: str
    why: str
    reason: str
    before: int


class QueueView:
    """Thread-safe. Raises StoreError."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._key = link.key("waiting")

    def tell(self, decisions: Sequence[Decision]) -> None:
        """What a round decided, in the order of the queue."""
        rows = [Waiting(d.id, str(d.why), d.reason, d.before) for d in decisions if not d.start][:FRONT]
        self._link.call(lambda client: client.set(self._key, store_text.text(rows), ex=FADES_S))

    def all(self) -> list[Waiting]:
        """In the order of the queue; empty when nobody has decided lately."""
        held = self._link.call(lambda client: client.get(self._key))
        return msgspec.json.decode(held, type=list[Waiting]) if held else []
