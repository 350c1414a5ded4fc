"""Pages, the queue, events: the right ones, in order, and quickly among many."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from store_room import StoreRoom, experiment, submitted

from orchestrator.service.messages import Experiment, Quota, State, Wanted
from orchestrator.service.store import Store
from orchestrator.service.store_errors import NoSuchExperiment, StoreError

USERS, TEAMS, PARENTS = ("ann", "b:o%b", "ümit"), ("x", "y:z"), ("", "sweep-1")


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreRoom]:
    room = StoreRoom(tmp_path_factory.mktemp("store"))
    yield room
    room.close()


@pytest.fixture(scope="module")
def many(room: StoreRoom) -> tuple[Store, list[Experiment]]:
    """A store with 240 experiments of some users, teams, sweeps and states, and these, newest first."""
    store, chance = room.fresh(), random.Random(5)
    for number in range(240):
        changes = {"user": chance.choice(USERS), "tags": {"team": chance.choice(TEAMS)}}
        one = submitted(store, number, parent=chance.choice(PARENTS), **changes)
        if number % 3 == 0:
            store.ask(one.id, Wanted.CANCEL, "ann")
        elif number % 3 == 1:
            store.claim(one.id, "s", 60.0)
    return store, [store.get(f"demo-{number:06x}") for number in reversed(range(240))]


@pytest.mark.parametrize("user", ["", *USERS, "nobody"])
@pytest.mark.parametrize("team", [None, *TEAMS])
@pytest.mark.parametrize("parent", PARENTS)
def test_pages_hold_what_fits_newest_first(
    many: tuple[Store, list[Experiment]], user: str, team: str | None, parent: str
) -> None:
    store, everything = many
    for states in ([], [State.QUEUED], [State.STARTING, State.CANCELLED], [State.FAILED]):
        expected = [
            one
            for one in everything
            if user in ("", one.user)
            and team in (None, one.tags["team"])
            and parent in ("", one.parent)
            and (not states or one.state in states)
        ]
        tag = ("team", team) if team else None
        found, before = [], ""
        for _ in itertools.count():
            page = store.list(states=states, user=user, tag=tag, parent=parent, limit=70, before=before)
            found += page
            if len(page) < 70:
                break
            before = page[-1].id
        assert found == expected


def test_a_page_looks_at_a_bounded_number_in_one_call(
    many: tuple[Store, list[Experiment]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, everything = many
    monkeypatch.setattr("orchestrator.service.store_reader.PAGE_LOOK", 7)
    rare = [one for one in everything if one.user == "ann" and one.state in (State.QUEUED, State.CANCELLED)]
    assert store.list(user="ann", states=[State.QUEUED, State.CANCELLED], limit=1000) == rare
    with pytest.raises(NoSuchExperiment, match="near ones"):
        store.list(before="demo-00000")


def test_the_queue_is_followed_by_what_changed(many: tuple[Store, list[Experiment]], room: StoreRoom) -> None:
    store, _ = many
    reader = Store.from_url(room.url, store.link.base.strip("{}:"))
    queued = reader.queued()
    assert queued == sorted(store.list(states=[State.QUEUED], limit=1000), key=lambda one: one.queued_at)
    assert {one.id for one in reader.active()} == {one.id for one in store.list(states=[State.STARTING], limit=1000)}
    gone, new = queued[0], experiment(5000)
    store.ask(gone.id, Wanted.CANCEL, "ann")
    held, _ = store.submit(new, "")
    assert reader.queued() == [*queued[1:], held]
    store.ask(held.id, Wanted.CANCEL, "ann")
    assert reader.queued() == queued[1:]
    store.resume(gone.id, "ann")
    assert [one.id for one in reader.queued()] == [*(one.id for one in queued[1:]), gone.id]
    store.claim(gone.id, "s", 60.0)
    reader.close()


def test_following_more_changes_than_one_reply_holds(room: StoreRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.service.store_mirror.AT_ONCE", 4)
    store, reader = room.fresh(), room.fresh()
    reader.link.base = store.link.base
    for count in (11, 4, 8, 1):  # the first is read in slices, the others as changes
        first = store.counts()[State.QUEUED]
        for number in range(first, first + count):
            submitted(store, number)
        assert [one.id for one in reader.queued()] == [f"demo-{number:06x}" for number in range(first + count)]
    for one in reader.queued()[:9]:
        store.ask(one.id, Wanted.CANCEL, "ann")
    assert len(reader.queued()) == 24 - 9


def test_a_watcher_goes_on_in_either_stream_and_waits_for_what_comes(room: StoreRoom) -> None:
    store = room.fresh()
    one, two = submitted(store, 1), submitted(store, 2)
    store.claim(one.id, "s", 60.0)
    every = store.events()
    assert [event.experiment for event in every] == [one.id, two.id, one.id]
    assert store.events(id=one.id) == [every[0], every[2]]
    assert store.events(every[1].id, id=one.id) == [every[2]]  # an id of the common stream
    assert store.events(every[0].id, limit=1) == [every[1]]
    assert store.latest_event() == every[2].id and store.latest_event(two.id) == every[1].id
    assert store.events(store.latest_event()) == [] and store.latest_event("none") == "0"
    later = threading.Timer(0.1, store.ask, (two.id, Wanted.CANCEL, "bob"))
    later.start()
    assert [event.data["by"] for event in store.events(every[2].id, wait_s=20)] == ["bob"]
    later.join()
    with pytest.raises(StoreError, match="is not an event's id"):
        store.events("yesterday")


def test_schedulers_hear_of_each_news_once_every_one_of_them(room: StoreRoom) -> None:
    store, other = room.fresh(), room.fresh()
    other.link.base = store.link.base
    assert not store.news(0)
    one = submitted(store)
    assert store.news(0) and not store.news(0)
    store.claim(one.id, "s", 60.0)
    store.report(one.id, 1, kind="note", data={})
    assert not store.news(0)
    other._events = type(other._events)(other.link)
    assert other.news(0)
    store.finish(one.id, 1, State.SUCCEEDED)  # its place is free
    assert store.news(5) and other.news(5)


def test_a_quota_is_kept_until_it_is_taken_away(room: StoreRoom) -> None:
    store = room.fresh()
    store.set_quota("ann", Quota(gpus=8, cpus=0.5, running=2))
    store.set_quota("bob", Quota())
    store.set_quota("bob", None)
    assert store.quotas() == {"ann": Quota(8, 0.5, 2)}
    with pytest.raises(ValueError, match="negative"):
        store.set_quota("ann", Quota(gpus=-1))


def test_a_page_and_an_unchanged_queue_cost_little_work(room: StoreRoom) -> None:
    """Processor time of this thread and of the server: a busy machine does not change it much."""
    store = room.fresh()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: submitted(store, number, user=f"user{number % 4}"), range(600)))
    assert len(store.queued()) == 600
    rows = {
        "page": lambda: len(store.list(limit=100)) == 100,
        "page of a user": lambda: len(store.list(user="user3", states=[State.QUEUED], limit=100)) == 100,
        "queue": lambda: len(store.queued()) == 600,
    }
    for name, read in rows.items():
        work_s = min(_work_s(store, read) for _ in range(5))
        assert work_s < 0.01, f"{name}: {work_s * 1000:.1f} ms"  # 1 to 2 ms; reading all 600 takes 15


def _work_s(store: Store, read: Callable[[], bool]) -> float:
    def spent() -> float:
        server = store.link.client.info("cpu")
        return time.thread_time() + float(server["used_cpu_user"]) + float(server["used_cpu_sys"])

    begun = spent()
    assert read()
    return spent() - begun
