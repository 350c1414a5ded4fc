"""What a job tells while Redis comes and goes, and while somebody else takes its place."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis_room import RedisRoom
from service_room import eventually

from orchestrator.errors import RunPaused
from orchestrator.service.messages import Demand, Experiment, Priority, Progress, State, Wanted
from orchestrator.service.observer import ReportingObserver
from orchestrator.service.reporter import Report, Reporter
from orchestrator.service.store import Store

pytestmark = pytest.mark.chaos


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisRoom]:
    room = RedisRoom(tmp_path_factory.mktemp("redis"), "--appendfsync", "always")
    yield room
    room.kill()


@pytest.fixture
def store(redis: RedisRoom, request: pytest.FixtureRequest) -> Iterator[Store]:
    """With one experiment, `run`, in its first attempt."""
    store = Store.from_url(redis.url, f"{request.node.name[:30]}:", patience_s=0.2)
    store.submit(Experiment("run", "run", "alice", State.QUEUED, Priority.NORMAL, (), Demand(), 0.0, "", ""), "run: {}")
    assert store.claim("run", "one", 30.0)
    store.running("run", 1)
    yield store
    store.close()


def reporter(store: Store, fenced: list[str]) -> Reporter:
    made = Reporter(store, "run", 1, fenced.append)
    made.start()
    return made


def notes(store: Store) -> list[str]:
    return [event.data["text"] for event in store.events(id="run") if event.kind == "note"]


def test_reports_wait_for_redis_and_arrive_once_and_in_order(redis: RedisRoom, store: Store) -> None:
    fenced: list[str] = []
    made = reporter(store, fenced)
    made.put(Report("note", {"text": "0"}))
    assert made.drain(10.0)
    redis.kill()
    for number in range(1, 30):
        made.put(Report("note", {"text": str(number)}))
    begin = time.monotonic()
    while made.drain(2.0) or not made._away_since:
        assert time.monotonic() - begin < 10.0
    begin = time.monotonic()
    assert not made.drain(5.0)
    assert time.monotonic() - begin < 1.0, "a run does not wait for a Redis that is known to be away"
    redis.start()
    assert made.close(30.0) == 0
    assert notes(store) == [str(number) for number in range(30)]
    assert not fenced


def test_a_job_whose_attempt_is_over_is_told_so_without_anything_to_report(store: Store) -> None:
    fenced: list[str] = []
    reporter(store, fenced)
    lease = store.get("run").lease
    assert store.settle("run", lease, State.QUEUED)
    assert store.claim("run", "other", 30.0)
    assert eventually(lambda: bool(fenced), 10.0)


def test_a_pause_is_heard_with_the_name_of_who_asked(store: Store) -> None:
    made = reporter(store, [])
    observer = ReportingObserver(made, Progress())
    assert observer.pause() is None
    store.ask("run", Wanted.PAUSE, "alice")
    observer.note("a boundary")
    pause = observer.pause()
    assert isinstance(pause, RunPaused) and str(pause) == "paused by alice"
    store.ask("run", Wanted.NOTHING, "alice")
    observer.note("another boundary")
    assert observer.pause() is None
    made.close(5.0)


def test_progress_says_how_far_the_run_is_and_what_is_left(store: Store, tmp_path: Path) -> None:
    made = reporter(store, [])
    observer = ReportingObserver(made, Progress())
    observer.tracked("r1", "http://mlflow/")
    observer.planned(["sft", "reinforce"], 4)
    observer.stage_ended("sft", 3.0, before=True)
    observer.stage_began("reinforce")
    metrics = {
        "reward/mean": 0.5,
        "accuracy": 0.25,
        "invalid_share": 0.0,
        "seconds/generate": 2.0,
        "seconds/update": 1.0,
    }
    observer.updated({"update": 1, "stage": "reinforce", "version": 2, "metrics": metrics})
    assert made.close(10.0) == 0
    held = store.get("run")
    progress = held.progress
    assert (progress.stage, progress.stages_done, progress.stages_total) == ("reinforce", 1, 2)
    assert (progress.update, progress.updates_total, progress.reward, progress.accuracy) == (1, 4, 0.5, 0.25)
    assert progress.eta_s == pytest.approx(9.0)
    assert (held.mlflow_run, held.mlflow_url) == ("r1", "http://mlflow/#/runs/r1")


def test_a_report_that_is_no_json_is_left_out_and_those_behind_it_arrive(store: Store) -> None:
    fenced: list[str] = []
    made = reporter(store, fenced)
    for text in ("before", "\ud800", object(), "behind"):
        made.put(Report("note", {"text": text}))
    assert made.close(10.0) == 0
    assert notes(store) == ["before", "behind"] and not fenced
