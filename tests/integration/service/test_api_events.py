"""Events over HTTP: in order, from the id that was seen last, for many watchers at once, through a restart of Redis."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from api_room import ApiRoom, problem
from redis_room import RedisRoom

from orchestrator.service.event_feed import Dropped, EventFeed, Told
from orchestrator.service.messages import Event
from orchestrator.service.sse import FrameReader
from orchestrator.service.store_link import Link


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiRoom]:
    running = ApiRoom(tmp_path_factory.mktemp("api"))
    yield running
    running.close()


def read(
    room: ApiRoom, path: str, count: int, *, last_id: str = "", opened: threading.Event | None = None
) -> list[Event]:
    """The first `count` events of a stream."""
    reader, found = FrameReader(), []
    headers = {"Last-Event-ID": last_id} if last_id else {}
    with room.client("read") as client, client.stream("GET", path, headers=headers) as answer:
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
        for chunk in answer.iter_raw():
            if opened is not None:
                opened.set()  # the first bytes come once the watcher is in place
            for frame in reader.feed(chunk):
                event = msgspec.json.decode(frame.data, type=Event)
                assert (frame.id, frame.kind) == (event.id, event.kind)
                found.append(event)
            if len(found) >= count:
                return found
    raise AssertionError(f"the stream ended after {len(found)} events")


def later(room: ApiRoom, path: str, count: int) -> tuple[threading.Thread, list[Event]]:
    """Reads in a thread; returns when the stream is open."""
    opened, found = threading.Event(), []

    def work() -> None:
        found.extend(read(room, path, count, opened=opened))

    thread = threading.Thread(target=work)
    thread.start()
    assert opened.wait(30.0)
    return thread, found


def run_once(room: ApiRoom, updates: int) -> str:
    made = room.submit("experiment=micro")
    claimed = room.store.claim(made["id"], "one", 60.0)
    assert claimed is not None
    room.store.running(made["id"], claimed.attempt)
    for number in range(updates):
        room.store.report(made["id"], claimed.attempt, kind="update", data={"update": number})
    return str(made["id"])


def test_a_stream_goes_on_after_the_id_that_was_seen_last(room: ApiRoom) -> None:
    id = run_once(room, 5)
    whole = read(room, f"/v1/experiments/{id}/events?after=0", 8)
    assert [event.kind for event in whole] == ["submitted", "state", "state", *["update"] * 5]
    assert [event.data.get("update") for event in whole[3:]] == list(range(5))
    for seen in (0, 3, 6):
        rest = read(room, f"/v1/experiments/{id}/events?after=0", 7 - seen, last_id=whole[seen].id)
        assert rest == whole[seen + 1 :]
    assert whole[3:] == read(room, "/v1/events", 5, last_id=whole[2].id)


def test_watchers_get_what_happens_from_now_on_and_only_what_they_asked_for(room: ApiRoom) -> None:
    other = run_once(room, 2)
    made = room.submit("experiment=micro")
    threads = [later(room, "/v1/events", 2), later(room, f"/v1/experiments/{made['id']}/events", 1)]
    room.store.claim(other, "nobody", 1.0)  # not queued any more: no event
    room.submit("experiment=micro", key="an event of another")
    room.clients["submit"].post(f"/v1/experiments/{made['id']}:cancel")
    for thread, _ in threads:
        thread.join(30.0)
    (_, everything), (_, own) = threads
    assert [event.kind for event in everything] == ["submitted", "state"]
    assert [event.experiment for event in own] == [made["id"]] and own[0].data["state"] == "cancelled"


def test_a_stream_of_nothing_or_from_nowhere_is_refused(room: ApiRoom) -> None:
    assert "no experiment" in problem(room.clients["read"].get("/v1/experiments/x-000000/events"), 404)[1]
    assert problem(room.clients["read"].get("/v1/events?after=yesterday"), 422)[0] == "query.after"
    assert (
        problem(room.clients["read"].get("/v1/events", headers={"Last-Event-ID": "x"}), 422)[0]
        == "header.Last-Event-ID"
    )
    assert problem(room.clients["nobody"].get("/v1/events"), 401)


def test_a_restart_of_redis_delays_events_and_loses_none(tmp_path: Path) -> None:
    room = ApiRoom(tmp_path)
    try:
        id = run_once(room, 1)
        thread, found = later(room, f"/v1/experiments/{id}/events?after=0", 6)
        room.redis.kill()
        assert room.clients["nobody"].get("/healthz").status_code == 200
        room.redis.start()
        for number in (1, 2):
            room.store.report(id, 1, kind="update", data={"update": number})
        thread.join(30.0)
        assert not thread.is_alive()
        assert [event.data.get("update") for event in found[3:]] == [0, 1, 2]
    finally:
        room.close()


def test_a_slow_watcher_is_dropped_with_the_id_to_go_on_from_and_blocks_nobody(tmp_path: Path) -> None:
    redis = RedisRoom(tmp_path)
    link = Link.from_url(redis.url, "mgrd:")

    def happen(count: int) -> None:
        for number in range(count):
            link.client.xadd(
                link.key("events"), {"experiment": "x-1", "kind": "note", "at": "1.0", "data": f'{{"n":{number}}}'}
            )

    async def first(watcher: AsyncIterator[Told | Dropped], count: int) -> list[Any]:
        return [await asyncio.wait_for(anext(watcher), 20.0) for _ in range(count)]

    async def scene() -> None:
        feed = EventFeed(redis.url, link, queue=10)
        await feed.start()
        try:
            happen(1)
            assert (
                len(set(await asyncio.gather(*(feed.latest() for _ in range(300))))) == 1
            )  # hundreds may begin at once
            slow, quick = feed.watch("0"), feed.watch("0")
            await first(slow, 1)
            reading = asyncio.create_task(first(quick, 41))
            for _ in range(8):
                await asyncio.to_thread(happen, 5)
                await asyncio.sleep(0.05)  # the quick one takes its part
            assert [told.event.data["n"] for told in await reading] == [0, *[0, 1, 2, 3, 4] * 8]
            kept = await first(slow, 11)
            assert all(isinstance(told, Told) for told in kept[:10]) and kept[10] == Dropped(kept[9].event.id)
            with pytest.raises(StopAsyncIteration):
                await anext(slow)
            rest = await first(feed.watch(kept[10].after), 30)
            assert [told.event.data["n"] for told in rest] == [0, 1, 2, 3, 4] * 6
            await quick.aclose()  # type: ignore[attr-defined]
            assert feed.watching <= 1
        finally:
            await feed.stop()

    try:
        asyncio.run(scene())
    finally:
        link.close()
        redis.kill()


def test_many_watchers_cost_redis_one_reader(room: ApiRoom) -> None:
    watching = [later(room, "/v1/events", 1) for _ in range(20)]
    blocked = [one for one in room.store.link.client.client_list() if one["cmd"] == "xread" and "b" in one["flags"]]
    assert len(blocked) <= 1
    assert "mgrd_event_watchers 20.0" in httpx.get(f"{room.url}/metrics").text
    room.submit("experiment=micro")
    for thread, found in watching:
        thread.join(30.0)
        assert [event.kind for event in found] == ["submitted"]
