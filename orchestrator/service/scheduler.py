"""The process that decides what starts, and looks after what it started.

    python -m orchestrator.service.scheduler [--redis-url URL] [--ray-dashboard URL] [--name NAME]     (else by MGRD_* variables)

Neighbours: `policy` decides (pure), `capacity` says what is free, `watch` looks after jobs, `store` holds everything. Any number may run:
a short lock lets one of them decide at a time, a lease says who looks after what. Invariants: nothing is kept in memory that its death
would lose; leases are prolonged before anything that may wait; an outage of Redis or Ray costs rounds, nothing else.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from orchestrator.errors import MgrdError
from orchestrator.service.capacity import Cluster, RayCapacity
from orchestrator.service.home import Home
from orchestrator.service.launcher import Launcher, RayLauncher, namespace_of
from orchestrator.service.messages import Cause, Experiment, Quota
from orchestrator.service.placement import Node, hold, place
from orchestrator.service.policy import Decision, PolicySettings, Why, decide, held_nodes
from orchestrator.service.queue_view import QueueView
from orchestrator.service.ray_api import RayApi, RayAway, RayRefused
from orchestrator.service.retries import RetrySettings
from orchestrator.service.settings import ServiceSettings, read_settings
from orchestrator.service.store import Store
from orchestrator.service.store_errors import StoreError
from orchestrator.service.store_schedulers import SchedulerLine, Schedulers
from orchestrator.service.watch import Watch

PATIENCE_S = 5.0  # of one call to Redis, below the lease
RETRY_FIRST_S = 10.0  # wait before the first try after a failure
RAY_TIMEOUT_S = 5.0  # of one call to Ray; a round makes at most two that time out
log = logging.getLogger(__name__)


class Capacity(Protocol):
    """Raises RayAway, RayRefused."""

    def look(self) -> Cluster: ...


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    """name: unique to this process; round_s: pause between rounds without news; lease_s: silence after which another takes over."""

    name: str
    round_s: float = 1.0
    lease_s: float = 30.0
    policy: PolicySettings = field(default_factory=PolicySettings)
    retries: RetrySettings = field(default_factory=RetrySettings)


class Scheduler:
    """`run` until told to stop; `step` is one round."""

    def __init__(
        self,
        store: Store,
        launcher: Launcher,
        capacity: Capacity,
        settings: SchedulerSettings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.counts: Counter[str] = Counter()
        self._store = store
        self._launcher = launcher
        self._capacity = capacity
        self._clock = clock
        self._lines = Schedulers(store.link)
        self._view = QueueView(store.link)
        self._watch = Watch(store, launcher, settings.retries, self.counts, clock=clock)
        self._held: dict[str, tuple[str, ...]] = {}  # machines held for those who have waited long
        self._told = False  # somebody waits, as far as this one has told last
        self._decide_s = 0.0
        self._ailment = ""

    def run(self, stop: threading.Event) -> None:
        """Rounds until `stop` is set; then what this one looks after is free for others at once."""
        log.info("scheduler %s begins", self.settings.name)
        while not stop.is_set():
            try:
                self.step()
                self._store.news(self.settings.round_s)
            except StoreError as error:
                self._note_ailment(str(error))
                stop.wait(self.settings.round_s)
        try:
            self._store.heartbeats({one.id: one.lease for one in self._mine()}, 0.0)
        except StoreError as error:
            log.warning("leases run out by themselves: %s", error)
        log.info("scheduler %s ends", self.settings.name)

    def step(self) -> None:
        """One round. Raises StoreError; an outage of Ray is noted, and leases are prolonged all the same."""
        mine = self._hold_on()
        try:
            self._tend(mine)
            claimed, ailment = self._claim()
            for one in claimed:
                self._watch.launch(one)
        except (RayAway, RayRefused) as error:
            ailment = str(error)
        self._note_ailment(ailment)
        self.counts["rounds"] += 1
        line = SchedulerLine(self.settings.name, self._clock(), dict(self.counts), self._decide_s, self._ailment)
        self._lines.note(line)

    def _mine(self) -> list[Experiment]:
        return [one for one in self._store.active() if one.owner == self.settings.name]

    def _hold_on(self) -> list[Experiment]:
        """Prolongs the leases of what is ours, and takes over what nobody looks after. Returns all of it."""
        name, lease_s = self.settings.name, self.settings.lease_s
        active = self._store.active()
        mine = {one.id: one for one in active if one.owner == name}
        for lost in self._store.heartbeats({id: one.lease for id, one in mine.items()}, lease_s):
            del mine[lost]
        for one in active:
            if one.owner != name and one.lease_until < self._clock():
                adopted = self._store.adopt(one.id, name, lease_s)
                if adopted is not None:
                    self.counts["adopted"] += 1
                    log.info("%s: taken over from %s", one.id, one.owner)
                    mine[one.id] = adopted
        return list(mine.values())

    def _tend(self, mine: Sequence[Experiment]) -> None:
        self._watch.forget_all_but({one.job for one in mine})
        for one in mine:
            self._watch.tend(one)

    def _claim(self) -> tuple[list[Experiment], str]:
        """What starts now, claimed, and what ails Ray. Under the lock, so that two schedulers never give the same room away."""
        if not self._store.queued():
            self._held = {}
            self._tell([])
            return [], ""
        cluster = (
            self._capacity.look()
        )  # before the lock: whatever others claim meanwhile is among the active ones below
        with self._store.round(self.settings.name) as ours:
            if not ours:
                return [], ""
            begin = time.perf_counter()
            waiting = {one.id: one for one in self._store.queued()}
            decisions = self._decide(list(waiting.values()), self._store.active(), cluster)
            self._decide_s = time.perf_counter() - begin
            self.counts.update(f"decided_{decision.why}" for decision in decisions)
            starts = [waiting[decision.id] for decision in decisions if decision.start]
            not_yet, ailment = self._not_over(starts)
            taken = [
                self._store.claim(one.id, self.settings.name, self.settings.lease_s)
                for one in starts
                if one.id not in not_yet
            ]
            self._tell([not_yet.get(decision.id, decision) for decision in decisions])
        return [one for one in taken if one], ailment

    def _decide(self, waiting: Sequence[Experiment], active: Sequence[Experiment], cluster: Cluster) -> list[Decision]:
        settings = dataclasses.replace(self.settings.policy, quotas=self._store.quotas())
        nodes = less_promised(cluster, active)
        now = self._clock()
        ended = self._store.past_runs(now - settings.age_step_s)
        decisions = decide(waiting, active, nodes, settings, now, held=self._held, ended=ended)
        self._held = held_nodes(decisions)
        return decisions

    def _tell(self, decisions: Sequence[Decision]) -> None:
        """For those who ask why something waits; when nothing does any more, that too, once."""
        waits = any(not decision.start for decision in decisions)
        if waits or self._told:
            self._view.tell(decisions)
        self._told = waits

    def _not_over(self, starts: Sequence[Experiment]) -> tuple[dict[str, Decision], str]:
        """Those that must wait for an earlier attempt of theirs, and what ails Ray: it is asked no more after its first failure in a
        round, and keeps nobody from starting who starts for the first time."""
        found: dict[str, Decision] = {}
        ailment = ""
        for one in starts:
            try:
                over = not one.attempt or (not ailment and self._is_over(one))
            except (RayAway, RayRefused) as error:
                over, ailment = False, str(error)
            if not over:
                found[one.id] = Decision(one.id, Why.EARLIER, f"waits for its earlier job {one.job} to end")
        return found, ailment

    def _is_over(self, waiting: Experiment) -> bool:
        """Nothing of an earlier attempt runs any more; what does is stopped, and waited for in later rounds."""
        if self._launcher.look(waiting.job).over:
            return True
        log.info("%s: waits for its earlier job %s to end", waiting.id, waiting.job)
        self._launcher.stop(waiting.job)
        return False

    def _note_ailment(self, text: str) -> None:
        if text and text != self._ailment:
            log.warning("%s", text)
        self._ailment = text


def less_promised(cluster: Cluster, active: Sequence[Experiment]) -> list[Node]:
    """The machines without what was promised to experiments that have not reserved it yet."""
    nodes = list(cluster.nodes)
    for one in active:
        if namespace_of(one.job) not in cluster.gangs:
            where = place(one.demand, nodes)
            nodes = hold(nodes, one.demand, where) if where is not None else nodes
    return nodes


def scheduler_of(settings: ServiceSettings, name: str, retry_first_s: float = RETRY_FIRST_S) -> Scheduler:
    """Wired to real servers. Raises StoreError for a malformed address."""
    store = Store.from_url(settings.redis_url, settings.redis_prefix, patience_s=PATIENCE_S)
    api = RayApi(settings.ray_dashboard, os.environ.get("RAY_AUTH_TOKEN", ""), timeout_s=RAY_TIMEOUT_S)
    quota = Quota(gpus=settings.quota_gpus, cpus=settings.quota_cpus, running=settings.quota_running)
    own = SchedulerSettings(
        name=name,
        round_s=settings.round_s,
        lease_s=settings.lease_s,
        policy=PolicySettings(quota=quota),
        retries=RetrySettings(budget={Cause.INFRASTRUCTURE: settings.retry_budget}, first_s=retry_first_s),
    )
    launcher = RayLauncher(api, job_environment(settings), Home.default().code)
    return Scheduler(store, launcher, RayCapacity(api), own)


def job_environment(settings: ServiceSettings) -> dict[str, str]:
    """What a job is told by variables: addresses, log sizes, and where this service keeps its files."""
    names = ("MGRD_STATE", "MGRD_CACHE", "MGRD_LOG_MAX_MB", "MGRD_LOG_BACKUPS")
    return {
        **{name: os.environ[name] for name in names if os.environ.get(name)},
        "MGRD_REDIS_URL": settings.redis_url,
        "MGRD_REDIS_PREFIX": settings.redis_prefix,
        "MGRD_MLFLOW_URI": settings.mlflow_uri,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m orchestrator.service.scheduler", description=__doc__)
    for key in ("redis-url", "redis-prefix", "mlflow-uri", "ray-address", "ray-dashboard"):
        parser.add_argument(f"--{key}")
    parser.add_argument("--round-s", type=float)
    parser.add_argument("--lease-s", type=float)
    parser.add_argument("--retry-first-s", type=float, default=RETRY_FIRST_S)
    parser.add_argument("--name", default=f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}")
    given = vars(parser.parse_args(arguments))
    name, retry_first_s = given.pop("name"), given.pop("retry_first_s")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        scheduler_of(read_settings(given), name, retry_first_s).run(stop)
    except MgrdError as error:
        log.error("%s", error)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
