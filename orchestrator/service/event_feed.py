"""Events to any number of watchers: one reader of Redis' stream of all events, a short queue for each watcher.

Neighbours: `api.watching` makes server-sent events of it, the metrics listen along; `store_events` is the same for threads. Invariants:
a watcher gets each event once, in order, from the id it names; one that does not keep up is dropped and can go on from the last id it
got, nobody waits for it; Redis being away ends nothing, what happened meanwhile comes later.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import redis.asyncio
from redis.exceptions import RedisError

from orchestrator.service import store_text
from orchestrator.service.messages import Event
from orchestrator.service.store_events import EVENT_ID
from orchestrator.service.store_link import Link

log = logging.getLogger(__name__)
QUEUE = 1000  # events a watcher may lag behind: some seconds of the busiest cluster
PAGE = 500  # read at once
BLOCK_S = 5.0  # one blocking read; the socket's limit is above it
SOCKET_S = 15.0
PAUSE_S = 0.5  # after Redis was away
CONNECTIONS = 16  # for the reader, and for watchers that begin: hundreds at once wait for their turn
NOW = "$"


@dataclass(frozen=True, slots=True)
class Told:
    """An event and its frame, encoded once for all watchers."""

    event: Event
    frame: bytes


@dataclass(frozen=True, slots=True)
class Dropped:
    """The watcher was too slow. after: last id that it got."""

    after: str


@dataclass(slots=True, eq=False)
class Watcher:
    """experiment: "" for all. queue: what was told and is not taken yet."""

    experiment: str
    queue: deque[Told] = field(default_factory=deque)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    lost: bool = False


class EventFeed:
    """Used by one event loop: `start` it there, `stop` it in the end."""

    def __init__(self, url: str, link: Link, *, queue: int = QUEUE) -> None:
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            url, decode_responses=True, socket_timeout=SOCKET_S, max_connections=CONNECTIONS, timeout=SOCKET_S
        )
        self._client: Any = redis.asyncio.Redis.from_pool(pool)
        self._link, self._limit = link, queue
        self._watchers: dict[str, set[Watcher]] = {}
        self._listeners: list[Callable[[Event], None]] = []
        self._last = ""
        self._task: asyncio.Task[None] | None = None
        self.read_at = 0.0  # monotonic time of the last answer of Redis

    @property
    def watching(self) -> int:
        return sum(len(watchers) for watchers in self._watchers.values())

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Call it with every event from now on; it must be quick."""
        self._listeners.append(listener)

    async def start(self) -> None:
        self._task = asyncio.create_task(self._read(), name="event feed")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._client.aclose()

    async def latest(self, experiment: str = "") -> str:
        """Id of the newest event; "0" when there is none. Raises RedisError."""
        rows = await self._client.xrevrange(self._stream(experiment), count=1)
        return str(rows[0][0]) if rows else "0"

    async def watch(self, after: str, experiment: str = "") -> AsyncIterator[Told | Dropped]:
        """Every event after `after` (an event's id, or "$": from now on), without end; after `Dropped` there is no more.

        Raises ValueError for an id that is none, RedisError for "$" while Redis is away.
        """
        if after != NOW and not EVENT_ID.fullmatch(after):
            raise ValueError(f"{after!r} is not the id of an event")
        watcher = Watcher(experiment)
        self._watchers.setdefault(experiment, set()).add(watcher)
        try:
            last = await self.latest(experiment) if after == NOW else after
            async for told in self._past(last, experiment):
                last = told.event.id
                yield told
            while True:
                while watcher.queue:
                    told = watcher.queue.popleft()
                    if _order(told.event.id) > _order(last):
                        last = told.event.id
                        yield told
                if watcher.lost:
                    yield Dropped(last)
                    return
                watcher.ready.clear()
                await watcher.ready.wait()
        finally:
            self._leave(watcher)

    async def _past(self, last: str, experiment: str) -> AsyncIterator[Told]:
        """What is kept after the event `last`; waits while Redis is away."""
        while True:
            try:
                rows = await self._client.xrange(self._stream(experiment), f"({last}", count=PAGE)
            except (RedisError, OSError):
                await asyncio.sleep(PAUSE_S)
                continue
            for id, held in rows:
                yield _told(id, held)
                last = id
            if len(rows) < PAGE:
                return

    def _leave(self, watcher: Watcher) -> None:
        here = self._watchers.get(watcher.experiment, set())
        here.discard(watcher)
        if not here:
            self._watchers.pop(watcher.experiment, None)

    def _stream(self, experiment: str = "") -> str:
        return self._link.key("events", experiment)

    async def _read(self) -> None:
        while True:
            try:
                self._last = self._last or await self.latest()
                await self._follow()
            except (RedisError, OSError) as error:
                log.warning("events are not read: %s; trying again", error)
                await asyncio.sleep(PAUSE_S)

    async def _follow(self) -> None:
        while True:
            got = await self._client.xread({self._stream(): self._last}, count=PAGE, block=int(BLOCK_S * 1000))
            self.read_at = time.monotonic()
            rows = got[0][1] if isinstance(got, list) and got else next(iter(got.values()))[0] if got else []
            for id, held in rows:
                self._last = id
                self._tell(_told(id, held))
            await asyncio.sleep(0)  # watchers take their part before the next page comes

    def _tell(self, told: Told) -> None:
        for listener in self._listeners:
            listener(told.event)
        for key in {"", told.event.experiment}:
            for watcher in tuple(self._watchers.get(key, ())):
                if len(watcher.queue) >= self._limit:
                    watcher.lost = True  # what it has is still sent, then it is told to come back
                    self._leave(watcher)
                else:
                    watcher.queue.append(told)
                watcher.ready.set()


def frame(event: Event) -> bytes:
    """As it goes over the wire: `id`, `event`, `data`."""
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (
        event.id.encode(),
        " ".join(event.kind.split()).encode(),
        msgspec.json.encode(event),
    )


def _told(id: str, held: dict[str, str]) -> Told:
    event = store_text.event(id, held)
    return Told(event, frame(event))


def _order(id: str) -> tuple[int, int]:
    """Ids grow as pairs of numbers; "5" is before "5-1"."""
    first, _, second = id.partition("-")
    return int(first), int(second or 0)
