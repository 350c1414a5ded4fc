"""A server that dies, is away, or whose replies are lost: nothing acknowledged is lost, nothing is done twice."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from store_room import StoreRoom, experiment, losing_replies, submitted

from orchestrator.service.messages import Bundle, Demand, State, Wanted
from orchestrator.service.store import Store
from orchestrator.service.store_errors import StoreError


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreRoom]:
    room = StoreRoom(tmp_path_factory.mktemp("store"))
    yield room
    room.close()


@pytest.mark.chaos
def test_a_server_killed_in_the_middle_loses_nothing_and_does_nothing_twice(room: StoreRoom) -> None:
    store = room.fresh()
    watcher_events: list[str] = []
    under_way = threading.Semaphore(0)
    stop = threading.Event()
    watcher = Store.from_url(room.url, store.link.base.strip("{}:"))

    def work(number: int) -> str:
        one, new = store.submit(experiment(number), "a: 1\n", key=f"k{number}", body_sha256="b")
        assert new and store.claim(one.id, "s", 60.0) is not None
        for update in range(20):
            store.report(one.id, 1, kind="update", data={"update": update})
            under_way.release()
        return store.finish(one.id, 1, State.SUCCEEDED).id

    def watch() -> None:
        after = "0"
        while not stop.is_set():
            for event in watcher.events(after, wait_s=0.2):
                after = event.id
                watcher_events.append(event.id)

    pid = room.server_pid
    assert watcher.queued() == []
    with ThreadPoolExecutor(5) as pool:
        pool.submit(watch)
        works = [pool.submit(work, number) for number in range(12)]
        for _ in range(60):
            under_way.acquire()
        os.kill(pid, signal.SIGKILL)
        ids = [work.result(timeout=60) for work in works]
        assert room.server_pid != pid
        stop.set()
    events = store.events(limit=10_000)
    assert watcher_events == [event.id for event in events[: len(watcher_events)]]
    assert Counter((event.experiment, event.kind) for event in events) == {
        (id, kind): count for id in ids for kind, count in {"submitted": 1, "state": 2, "update": 20}.items()
    }
    for id in ids:
        assert [event.data["update"] for event in store.events(id=id) if event.kind == "update"] == list(range(20))
        assert (store.get(id).state, store.get(id).attempt) == (State.SUCCEEDED, 1)
    last = submitted(store, 99)
    assert watcher.queued() == [last]


@pytest.mark.chaos
def test_a_server_that_comes_back_with_other_data_is_read_anew(room: StoreRoom) -> None:
    store, reader = room.fresh(), room.fresh()
    reader.link.base = store.link.base
    for number in range(5):
        submitted(store, number)
    assert len(reader.queued()) == 5
    store.link.client.flushall()  # as if the machine had crashed before any of it was on the disk
    last = submitted(store, 9)
    os.kill(room.server_pid, signal.SIGKILL)
    assert reader.queued() == [last]


def test_a_lost_reply_is_asked_for_again_and_every_deed_is_done_once(room: StoreRoom) -> None:
    plain = room.fresh()
    prefix = plain.link.base.strip("{}:")
    with losing_replies(room.url, set(range(1, 40, 2))) as url:  # the first EVALSHA of each finds no script
        store = Store.from_url(url, prefix)
        one, new = store.submit(experiment(1), "a: 1\n")
        assert new
        first = store.claim(one.id, "s", 60.0)
        assert first is not None and (first.attempt, first.lease) == (1, 1)
        store.running(one.id, 1)
        store.report(one.id, 1, kind="note", data={})
        again = store.settle(one.id, 1, State.QUEUED, retry_of="infrastructure")
        assert again is not None and again.retries == {"infrastructure": 1}
        store.claim(one.id, "s", -1.0)
        adopted = store.adopt(one.id, "t", 60.0)
        assert adopted is not None and (adopted.attempt, adopted.lease) == (2, 3)
        store.ask(one.id, Wanted.PAUSE, "ann")
        assert store.finish(one.id, 2, State.PAUSED).state is State.PAUSED
        resumed = store.resume(one.id, "ann", overrides=["b=1"], demand=Demand((Bundle(),)))
        assert resumed.overrides == (*one.overrides, "b=1")
        with store.round("s") as mine:
            assert mine
        store.close()
    kinds = [event.data.get("state", event.kind) for event in plain.events()]
    assert kinds == [
        *["queued", "starting", "running", "note", "queued", "starting", "note", "wanted", "paused", "queued"]
    ]


def test_a_server_that_stays_away_is_named_after_the_patience() -> None:
    store = Store.from_url("redis://:geheim@127.0.0.1:1/0", patience_s=0.3)
    begun = time.monotonic()
    with pytest.raises(StoreError, match=r"127\.0\.0\.1:1 did not answer for 0\.3 s.*mgrd doctor") as caught:
        store.get("x")
    assert time.monotonic() - begun < 5 and "geheim" not in str(caught.value)


def test_a_wrong_password_or_address_is_told_at_once(room: StoreRoom) -> None:
    wrong = room.url.replace("redis://:", "redis://:x")
    begun = time.monotonic()
    with pytest.raises(StoreError, match="refuses the password"):
        Store.from_url(wrong, patience_s=30).counts()
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize(
    "url",
    ["http://:geheim@nowhere", "redis://:ge/heim@nowhere:1", "redis://:ge#heim@nowhere:1"],
)
def test_a_malformed_address_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(StoreError, match="malformed") as caught:
        Store.from_url(url)
    assert "heim" not in str(caught.value) and "'ge" not in str(caught.value) and ":ge" not in str(caught.value)


def test_a_malformed_address_without_a_password_is_told_why() -> None:
    with pytest.raises(StoreError, match="Port could not be cast"):
        Store.from_url("redis://nowhere:abc")
