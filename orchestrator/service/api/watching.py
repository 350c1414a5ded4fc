"""Routes of events: server-sent, resumable by the id of the last one.

Neighbours: `event_feed` reads Redis once for all watchers. Invariants: each watcher gets every event once, in order; a silent stream shows
a sign of life every 15 s; the stream of a watcher that does not keep up ends, and it goes on from the id it has.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from redis.exceptions import RedisError
from sse_starlette import EventSourceResponse

from orchestrator.service.access import Reader
from orchestrator.service.api.context import Context, Here, Id
from orchestrator.service.api.problems import RETRY_S, errors
from orchestrator.service.event_feed import NOW, Dropped, EventFeed, Told
from orchestrator.service.refusals import Refused

router = APIRouter(prefix="/v1", tags=["events"])
PING_S = 15.0
SEND_S = 30.0  # a connection that takes nothing for so long is closed
MAX_WATCHERS = 2000
RETRY = b"retry: 1000\n\n"  # ms until a browser that lost the connection comes back
LEGAL = r"^(\d{1,20}(-\d{1,20})?|\$)?$"
After = Annotated[
    str,
    Query(pattern=LEGAL, description="Id of the last event seen; 0: all that are kept; empty: from now on."),
]
LastEventId = Annotated[
    str, Header(alias="Last-Event-ID", pattern=LEGAL, description="As `after`, which it overrides; browsers send it.")
]
STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events: `id` to go on from, `event` its kind, `data` an Event as JSON. The stream of a watcher that is too slow "
        "ends; it goes on by its last id.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


@router.get("/events", response_class=Response, responses={**STREAM, **errors()})
async def events(here: Here, _: Reader, after: After = "", last_event_id: LastEventId = "") -> Response:
    """What happens to any experiment."""
    return await _stream(here, last_event_id or after or NOW, "")


@router.get("/experiments/{id}/events", response_class=Response, responses={**STREAM, **errors(404)})
async def events_of(id: Id, here: Here, _: Reader, after: After = "", last_event_id: LastEventId = "") -> Response:
    """What happens to one experiment; the stream stays open after its end, since it may be resumed."""
    await run_in_threadpool(here.store.get, id)
    return await _stream(here, last_event_id or after or NOW, id)


async def _stream(here: Context, after: str, experiment: str) -> Response:
    if here.feed.watching >= MAX_WATCHERS:
        raise Refused(503, f"{MAX_WATCHERS} watch already", hint="close some, or come back later", retry_s=RETRY_S)
    if after == NOW:
        try:
            after = await here.feed.latest(experiment)
        except RedisError as error:
            raise Refused(503, f"Redis does not answer: {error}", retry_s=RETRY_S) from error
    frames = _frames(here.feed, after, experiment)
    return EventSourceResponse(frames, ping=PING_S, send_timeout=SEND_S, sep="\n")


async def _frames(feed: EventFeed, after: str, experiment: str) -> AsyncIterator[bytes]:
    yield RETRY
    async for told in feed.watch(after, experiment):
        yield told.frame if isinstance(told, Told) else dropped(told)


def dropped(told: Dropped) -> bytes:
    """A comment, for people: every client comes back with the last id when a stream ends."""
    return b": too slow; go on after %s\n\n" % told.after.encode()
