"""Two schedulers over one store: every experiment is launched exactly once an attempt, whoever dies meanwhile."""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.embedded import EmbeddedServices
from orchestrator.service import store_text
from orchestrator.service.capacity import Cluster
from orchestrator.service.launcher import JobState, JobView, namespace_of
from orchestrator.service.messages import Bundle, Cause, Demand, Experiment, Priority, State, Wanted
from orchestrator.service.placement import Node
from orchestrator.service.ray_api import RayAway
from orchestrator.service.retries import RetrySettings
from orchestrator.service.scheduler import Scheduler, SchedulerSettings
from orchestrator.service.store import Store

COUNT = 200
CORES = 8.0


class Jobs:
    """A cluster of eight cores whose jobs do nothing: records launches, holds what was launched, ends what it is told to."""

    def __init__(self) -> None:
        self.launches: Counter[str] = Counter()
        self.views: dict[str, JobView] = {}
        self.held: dict[str, float] = {}
        self.most_held = 0.0
        self.away = False
        self.unstoppable = False
        self._lock = threading.Lock()

    def launch(self, experiment: Experiment) -> None:
        self._answer()
        with self._lock:
            self.launches[experiment.job] += 1
            self.views[experiment.job] = JobView(JobState.RUNNING)
            self.held[experiment.job] = experiment.demand.cpus
            self.most_held = max(self.most_held, sum(self.held.values()))

    def look(self, job: str) -> JobView | None:  # type: ignore[override]
        self._answer()
        return self.views.get(job, JobView(JobState.UNKNOWN))

    def stop(self, job: str) -> None:
        if self.unstoppable:
            raise RayAway("it does not stop")
        self.end(job)

    def leftovers(self, job: str) -> int:
        return 0

    def end(self, job: str, exit_code: int = 1) -> None:
        with self._lock:
            self.views[job] = JobView(JobState.ENDED, exit_code, "gone")
            self.held.pop(job, None)

    def cluster(self) -> Cluster:
        self._answer()
        with self._lock:
            free = CORES - sum(self.held.values())
            return Cluster(
                (Node("n", CORES, 0.0, 0.0, free, 0.0, 0.0),), frozenset(namespace_of(job) for job in self.held)
            )

    def _answer(self) -> None:
        if self.away:
            raise RayAway("nobody answers")


class Room:
    def __init__(self, jobs: Jobs) -> None:
        self.look = jobs.cluster


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with EmbeddedServices(tmp_path_factory.mktemp("race")) as services:
        yield services.redis()


@pytest.fixture
def store(redis_url: str, request: pytest.FixtureRequest) -> Iterator[Store]:
    store = Store.from_url(redis_url, f"{request.node.name[:40]}:", patience_s=2.0)
    yield store
    store.close()


def submit(
    store: Store, id: str, cpus: float = 1.0, *, user: str = "alice", priority: Priority = Priority.NORMAL
) -> None:
    demand = Demand((Bundle(cpus=cpus),))
    run_dir = str(Path("/nowhere") / id)
    store.submit(Experiment(id, id, user, State.QUEUED, priority, (), demand, 0.0, run_dir, ""), "run: {}")


def backdated(store: Store, id: str, seconds: float) -> None:
    """As if it had been queued so long ago."""
    client, one = store.link.client, store.get(id)
    changed = dataclasses.replace(one, queued_at=one.queued_at - seconds)
    client.hset(store.link.key("experiment", id), "queued_at", store_text.text(changed.queued_at))
    client.hset(store.link.key("texts"), id, store_text.text(changed))
    client.zadd(store.link.key("changes"), {id: client.incr(store.link.key("rev"))})


def scheduler(store: Store, jobs: Jobs, name: str, lease_s: float = 30.0) -> Scheduler:
    retries = RetrySettings(budget={Cause.INFRASTRUCTURE: 2}, first_s=0.0, jitter=0.0)
    settings = SchedulerSettings(name, round_s=0.02, lease_s=lease_s, retries=retries)
    made = Scheduler(store, jobs, Room(jobs), settings)  # type: ignore[arg-type]
    made._watch.look_s = 0.0
    return made


def test_two_schedulers_launch_each_of_200_experiments_once(store: Store) -> None:
    jobs, stop = Jobs(), threading.Event()
    for number in range(COUNT):
        submit(store, f"e{number:03d}", 1.0 + number % 3)
    both = [scheduler(store, jobs, name) for name in ("one", "other")]
    threads = [threading.Thread(target=each.run, args=(stop,)) for each in both]
    for thread in threads:
        thread.start()
    try:
        done = 0
        while done < COUNT:
            for job in list(jobs.held):
                id, _, attempt = job.rpartition("-")
                store.running(id, int(attempt))
                store.finish(id, int(attempt), State.SUCCEEDED)
                jobs.end(job, 0)
                done += 1
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert jobs.launches == {f"e{number:03d}-1": 1 for number in range(COUNT)}
    assert store.counts()[State.SUCCEEDED] == COUNT
    assert jobs.most_held <= CORES
    assert all(each.counts["launched"] for each in both), "both of them had a share of the work"


def test_what_a_dead_scheduler_held_is_taken_over_and_not_launched_again(store: Store) -> None:
    jobs = Jobs()
    submit(store, "held")
    dead = scheduler(store, jobs, "dead", lease_s=0.05)
    dead.step()
    heir = scheduler(store, jobs, "heir")
    while not heir.counts["adopted"]:
        heir.step()
    assert store.get("held").owner == "heir"
    assert dead._hold_on() == []
    assert jobs.launches == {"held-1": 1}


def test_a_claim_whose_scheduler_died_before_the_launch_is_launched_by_its_heir(store: Store) -> None:
    jobs = Jobs()
    submit(store, "claimed")
    assert store.claim("claimed", "dead", 0.0)
    heir = scheduler(store, jobs, "heir")
    heir.step()
    heir.step()
    assert jobs.launches == {"claimed-1": 1}


def test_a_job_that_vanishes_is_tried_again_until_its_budget_is_used_up(store: Store) -> None:
    jobs, one = Jobs(), scheduler(store, Jobs(), "one")
    one = scheduler(store, jobs, "one")
    submit(store, "frail")
    for attempt in (1, 2, 3):
        one.step()
        assert jobs.launches[f"frail-{attempt}"] == 1
        store.running("frail", attempt)
        jobs.end(f"frail-{attempt}", 137)
        one._tend(one._hold_on())
    ended = store.get("frail")
    assert (ended.state, ended.cause) == (State.FAILED, Cause.INFRASTRUCTURE)
    assert "exit status 137" in ended.reason


def test_no_attempt_begins_before_the_earlier_job_has_ended(store: Store) -> None:
    jobs = Jobs()
    one = scheduler(store, jobs, "one")
    submit(store, "again")
    one.step()
    store.running("again", 1)
    store.finish("again", 1, State.PAUSED)
    store.resume("again", "alice")
    one.step()  # sees that job 1 still runs, stops it
    assert "again-2" not in jobs.launches
    one.step()
    assert jobs.launches["again-2"] == 1


def test_a_cancel_is_settled_when_the_job_has_ended(store: Store) -> None:
    jobs = Jobs()
    one = scheduler(store, jobs, "one")
    submit(store, "unwanted")
    one.step()
    store.running("unwanted", 1)
    store.ask("unwanted", Wanted.CANCEL, "alice")
    one.step()
    one.step()
    assert store.get("unwanted").state is State.CANCELLED


def test_a_user_whose_short_runs_keep_ending_has_had_a_turn(store: Store) -> None:
    """Once its runs have ended, what it still has waiting is not older than what another user queued before those started."""
    jobs, day = Jobs(), 24 * 3600.0
    one = scheduler(store, jobs, "one")
    submit(store, "s-0", CORES)
    submit(store, "s-1", CORES)
    submit(store, "b-0", CORES, user="bob", priority=Priority.HIGH)
    backdated(store, "s-0", day)
    backdated(store, "s-1", day)
    one.step()
    assert set(jobs.held) == {"s-0-1"}, "it has waited for a day"
    store.finish("s-0", 1, State.SUCCEEDED)
    jobs.end("s-0-1", 0)
    one.step()
    assert set(jobs.held) == {"b-0-1"}, "the other one of the two has had its turn"


def test_a_job_that_cannot_be_stopped_keeps_nobody_else_waiting_and_its_successor_says_why(store: Store) -> None:
    jobs = Jobs()
    one = scheduler(store, jobs, "one")
    submit(store, "again")
    one.step()
    store.running("again", 1)
    store.finish("again", 1, State.PAUSED)
    store.resume("again", "alice")
    backdated(store, "again", 3600.0)
    submit(store, "other")
    jobs.unstoppable = True
    one.step()
    assert set(jobs.launches) == {"again-1", "other-1"}
    assert [(row.id, row.reason) for row in one._view.all()] == [("again", "waits for its earlier job again-1 to end")]
    assert one._lines.all()[-1].note == "it does not stop"


def test_when_nothing_waits_any_more_nobody_is_told_to_wait(store: Store) -> None:
    jobs = Jobs()
    one = scheduler(store, jobs, "one")
    submit(store, "huge", CORES + 1)
    one.step()
    assert [row.id for row in one._view.all()] == ["huge"]
    store.ask("huge", Wanted.CANCEL, "alice")
    one.step()
    assert one._view.all() == []


def test_a_run_that_is_paused_because_its_job_vanished_is_not_said_to_be_tried_again(store: Store) -> None:
    jobs = Jobs()
    one = scheduler(store, jobs, "one")
    submit(store, "tired")
    one.step()
    store.running("tired", 1)
    store.ask("tired", Wanted.PAUSE, "alice")
    jobs.end("tired-1", 137)
    one.step()
    paused = store.get("tired")
    assert paused.state is State.PAUSED
    assert "exit status 137" in paused.reason and "tried again" not in paused.reason


def test_leases_hold_while_ray_is_away_and_nothing_is_settled(store: Store) -> None:
    jobs = Jobs()
    one = scheduler(store, jobs, "one", lease_s=5.0)
    submit(store, "patient")
    one.step()
    until = store.get("patient").lease_until
    jobs.away = True
    one.step()
    held = store.get("patient")
    assert held.state is State.STARTING and held.owner == "one" and held.lease_until > until
    assert one._lines.all()[-1].note == "nobody answers"
