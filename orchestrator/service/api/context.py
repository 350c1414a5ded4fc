"""What the routes work with, and how they get at it.

Neighbours: `app` makes one, every router asks for it by `Here`. Invariant: nothing in it belongs to a single request.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
from fastapi import Depends, Request
from fastapi import Path as InPath
from fastapi.responses import Response

from orchestrator import paths
from orchestrator.errors import MgrdError
from orchestrator.service.access import Access
from orchestrator.service.api.metrics import Metrics
from orchestrator.service.capacity import Cluster
from orchestrator.service.event_feed import EventFeed
from orchestrator.service.home import Home
from orchestrator.service.queue_view import QueueView
from orchestrator.service.settings import ServiceSettings
from orchestrator.service.store import Store
from orchestrator.service.store_schedulers import Schedulers

CACHED = ("data", "models", "features", "benchmarks", "banks", "sources")  # of the cache: what runs may share
ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
SHA256_PATTERN = r"^[0-9a-f]{64}$"


class Capacity:
    """The cluster as it was lately. look: asks Ray; None: no cluster is known. Any thread may ask; only one waits for Ray."""

    KEPT_S = 3.0
    AWAY_S = 10.0  # how long a Ray that is away is not asked again

    def __init__(self, look: Callable[[], Cluster] | None) -> None:
        self._look = look
        self._lock = threading.Lock()
        self._seen: Cluster | None = None
        self._until = 0.0
        self.problem = "" if look else "no Ray cluster is configured"

    def cluster(self) -> Cluster | None:
        """None while Ray does not answer; `problem` says why."""
        if self._look is None:
            return None
        if not self._lock.acquire(blocking=False):
            return self._seen  # another one asks; what was seen last will do
        try:
            if time.monotonic() >= self._until:
                self._seen, kept = self._asked(self._look)
                self._until = time.monotonic() + kept
            return self._seen
        finally:
            self._lock.release()

    def _asked(self, look: Callable[[], Cluster]) -> tuple[Cluster | None, float]:
        """What is there, and how long that holds."""
        try:
            found = look()
        except MgrdError as error:
            self.problem = str(error)
            return None, self.AWAY_S
        self.problem = ""
        return found, self.KEPT_S


@dataclass(frozen=True, slots=True)
class Context:
    """roots: folders that configurations may name files in, and recordings may lie in."""

    settings: ServiceSettings
    home: Home
    store: Store
    schedulers: Schedulers
    queue: QueueView
    capacity: Capacity
    feed: EventFeed
    access: Access
    metrics: Metrics
    roots: tuple[Path, ...]


def roots_of(settings: ServiceSettings, home: Home) -> tuple[Path, ...]:
    """The settings' ones, what runs of this machine share, and what earlier experiments made."""
    shared = [paths.cache_dir() / name for name in CACHED]
    return (*map(Path, settings.allowed_roots), *shared, home.runs)


def _context(request: Request) -> Context:
    found: Context = request.app.state.context
    return found


Here = Annotated[Context, Depends(_context)]
Id = Annotated[str, InPath(pattern=ID_PATTERN, description="Of an experiment.")]
Sha256 = Annotated[str, InPath(pattern=SHA256_PATTERN, description="SHA-256, 64 hexadecimal digits.")]


def answer(value: Any, status: int = 200) -> Response:
    """A message, or a dictionary of messages, as JSON; the route's `response_model` documents it. NaN becomes null."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")
