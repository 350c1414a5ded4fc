"""Quotas of single users, in Redis; whoever has none gets the settings' one.

Neighbours: the API sets them, `scheduler` hands them to the policy. Invariant: a quota is replaced as a whole.
"""

from __future__ import annotations

import msgspec

from orchestrator.service import store_text
from orchestrator.service.messages import Quota
from orchestrator.service.store_link import Link


class Quotas:
    def __init__(self, link: Link) -> None:
        self._link = link
        self._key = link.key("quotas")

    def all(self) -> dict[str, Quota]:
        """By user."""
        held = self._link.call(lambda client: client.hgetall(self._key))
        return {user: msgspec.json.decode(one, type=Quota) for user, one in held.items()}

    def set(self, user: str, quota: Quota | None) -> None:
        """None: take it away, so that the settings' one holds. Raises ValueError for a negative number."""
        if quota is None:
            self._link.call(lambda client: client.hdel(self._key, user))
            return
        if min(quota.gpus, quota.cpus, quota.running) < 0:
            raise ValueError(f"a quota can't be negative: {quota}; 0 means no limit")
        self._link.call(lambda client: client.hset(self._key, user, store_text.text(quota)))
