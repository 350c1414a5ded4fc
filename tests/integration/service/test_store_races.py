"""Many at once: each experiment is claimed by one, each key makes one experiment, one scheduler decides."""

from __future__ import annotations

import multiprocessing
import random
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from store_room import StoreRoom, experiment, submitted

from orchestrator.service.messages import State, Wanted
from orchestrator.service.store import Store

WORKERS = 2
THREADS = 3
EXPERIMENTS = 200


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreRoom]:
    room = StoreRoom(tmp_path_factory.mktemp("store"))
    yield room
    room.close()


def claim_what_it_can(url: str, prefix: str, name: str) -> list[tuple[str, int, int]]:
    """A scheduler process with several threads, each trying all that is queued in an order of its own."""
    store = Store.from_url(url, prefix)
    store.news(30.0)  # until all are there

    def thread(number: int) -> list[tuple[str, int, int]]:
        queued = store.queued()
        random.Random(f"{name}{number}").shuffle(queued)
        claimed = [store.claim(one.id, f"{name}-{number}", 60.0, job=f"{one.id}-1") for one in queued]
        return [(one.id, one.attempt, one.lease) for one in claimed if one]

    with ThreadPoolExecutor(THREADS) as pool:
        found = [row for rows in pool.map(thread, range(THREADS)) for row in rows]
    store.close()
    return found


def test_two_processes_racing_for_200_experiments_claim_each_once(room: StoreRoom) -> None:
    store = room.fresh()
    with ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("spawn")) as pool:
        prefix = store.link.base.strip("{}:")
        link = store.link.client
        news = store.link.key("news")
        runs = [pool.submit(claim_what_it_can, room.url, prefix, f"s{number}") for number in range(WORKERS)]
        for number in range(EXPERIMENTS):
            submitted(store, number)
            if number < EXPERIMENTS - 1:
                link.delete(news)  # they begin with the last one
        claims = [row for run in runs for row in run.result(timeout=60)]
    assert Counter(claims) == {(f"demo-{number:06x}", 1, 1): 1 for number in range(EXPERIMENTS)}
    starts = [event.experiment for event in store.events(limit=10_000) if event.data["state"] == State.STARTING]
    assert sorted(starts) == sorted(id for id, _, _ in claims)
    assert store.counts()[State.STARTING] == EXPERIMENTS and not store.queued()


def test_one_key_from_many_threads_makes_one_experiment(room: StoreRoom) -> None:
    store = room.fresh()
    gate = threading.Barrier(8)

    def submit(number: int) -> tuple[str, bool]:
        gate.wait()
        held, new = store.submit(experiment(number), "a: 1\n", key="k", body_sha256="b")
        return held.id, new

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(submit, range(8)))
    assert len({id for id, _ in answers}) == 1 and sum(new for _, new in answers) == 1
    assert len(store.list()) == 1 and len(store.events()) == 1


def test_a_cancel_and_the_end_of_a_run_at_once_leave_one_of_the_two(room: StoreRoom) -> None:
    store = room.fresh()
    for number in range(30):
        one = submitted(store, number)
        store.claim(one.id, "s", 60.0)
        with ThreadPoolExecutor(2) as pool:
            asked = pool.submit(store.ask, one.id, Wanted.CANCEL, "ann")
            ended = pool.submit(store.finish, one.id, 1, State.FAILED)
            first = asked.exception() is None
        assert ended.result().state is (State.CANCELLED if first else State.FAILED)


def test_one_scheduler_decides_at_a_time_and_one_that_was_too_slow_claims_nothing(room: StoreRoom) -> None:
    store = room.fresh()
    one, two = submitted(store, 1), submitted(store, 2)
    with store.round("s1") as mine:
        with store.round("s2") as other:
            assert (mine, other) == (True, False)
        assert store.claim(one.id, "s1", 60.0) is not None
    with store.round("s3", ttl_s=0.001) as mine:
        assert mine
        threading.Event().wait(0.01)
        with ThreadPoolExecutor(1) as pool:  # another scheduler: its round is its own thread's
            assert pool.submit(_decide, store).result() is True
        assert store.claim(two.id, "s3", 60.0) is None
    with store.round("s5") as mine:
        assert mine
        assert store.claim(two.id, "s5", 60.0) is not None


def _decide(store: Store) -> bool:
    with store.round("s4", ttl_s=60.0) as mine:
        return mine


def test_a_slow_scheduler_does_not_end_the_round_of_the_next(room: StoreRoom) -> None:
    store, next_one = room.fresh(), room.fresh()
    next_one.link.base = store.link.base
    with ExitStack() as later:
        with store.round("s1", ttl_s=0.001):
            threading.Event().wait(0.01)
            assert later.enter_context(next_one.round("s2", ttl_s=60.0)) is True
        with store.round("s1") as mine:
            assert mine is False
