"""What Prometheus reads: the service's own counters, and what the store says at the moment of reading.

Neighbours: `app` measures every request, the event feed counts what happens, `GET /metrics` renders; docs/SERVICE.md lists every name.
Invariants: no label has a value that users choose, so their number is bounded; a store that does not answer leaves its figures out, the
rest is still served.
"""

from __future__ import annotations

import threading
import time
from collections import Counter as Count
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from orchestrator.errors import MgrdError
from orchestrator.service.messages import Event, Experiment, Priority, State
from orchestrator.service.store_schedulers import SchedulerLine

KEPT_S = 2.0  # several scrapers cost the store no more than one
BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
KINDS = frozenset({"submitted", "state", "stage", "update", "note", "wanted"})


@dataclass(frozen=True, slots=True)
class Standing:
    """What the store says now."""

    counts: dict[State, int]
    queued: list[Experiment]
    active: list[Experiment]
    schedulers: list[SchedulerLine]


class Metrics:
    """look: asks the store; raises MgrdError while it is away."""

    def __init__(self, look: Callable[[], Standing]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.registry.register(_Standing(look))
        self._latency = Histogram(
            "mgrd_http_request_seconds",
            "Time until an answer began, by route.",
            ("method", "route", "status"),
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self._events = Counter("mgrd_events", "Events of experiments, by kind.", ("kind",), registry=self.registry)
        self._updates = Counter("mgrd_policy_updates", "Policy updates of all experiments.", registry=self.registry)
        self._moves = Counter(
            "mgrd_transitions",
            "Changes of experiments' states, by the state reached.",
            ("state",),
            registry=self.registry,
        )
        self.watchers = Gauge("mgrd_event_watchers", "Open event streams.", registry=self.registry)
        for kind in KINDS:
            self._events.labels(kind)
        for state in State:
            self._moves.labels(state.value)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        self._latency.labels(method, route, f"{status // 100}xx").observe(seconds)

    def event(self, event: Event) -> None:
        self._events.labels(event.kind if event.kind in KINDS else "other").inc()
        if event.kind == "update":
            self._updates.inc()
        state = str(event.data.get("state", ""))
        if event.kind in ("state", "submitted") and state in set(State):
            self._moves.labels(state).inc()

    def text(self) -> bytes:
        return generate_latest(self.registry)


class _Standing(Collector):
    def __init__(self, look: Callable[[], Standing]) -> None:
        self._look = look
        self._lock = threading.Lock()
        self._seen: tuple[float, list[Metric]] = (0.0, [])

    def describe(self) -> list[Metric]:
        return []  # registering must not ask the store

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            at, found = self._seen
            if time.monotonic() - at > KEPT_S or not found:
                found = self._ask()
                self._seen = (time.monotonic(), found)
        yield from found

    def _ask(self) -> list[Metric]:
        up = GaugeMetricFamily("mgrd_store_up", "1: Redis answered this reading.")
        try:
            standing = self._look()
        except MgrdError:
            up.add_metric([], 0.0)
            return [up]
        up.add_metric([], 1.0)
        return [up, *_experiments(standing), *_runs(standing), *_schedulers(standing)]


def _experiments(standing: Standing) -> Iterator[Metric]:
    states = GaugeMetricFamily("mgrd_experiments", "Experiments kept, by state.", labels=["state"])
    for state in State:
        states.add_metric([state.value], standing.counts.get(state, 0))
    queue = GaugeMetricFamily("mgrd_queue_length", "Experiments that wait, by priority.", labels=["priority"])
    waiting = Count(one.priority for one in standing.queued)
    for priority in Priority:
        queue.add_metric([priority.value], waiting[priority])
    now = time.time()
    oldest = GaugeMetricFamily("mgrd_queue_oldest_seconds", "How long the longest waiting experiment has waited.")
    oldest.add_metric([], max((now - one.queued_at for one in standing.queued), default=0.0))
    running = GaugeMetricFamily("mgrd_running", "Experiments that start or run.")
    running.add_metric([], len(standing.active))
    yield from (states, queue, oldest, running)


def _runs(standing: Standing) -> Iterator[Metric]:
    progress = [one.progress for one in standing.active]
    tokens = GaugeMetricFamily("mgrd_tokens_per_second", "Tokens sampled a second, sum over running experiments.")
    tokens.add_metric([], sum(one.tokens_per_s or 0.0 for one in progress))
    latency = GaugeMetricFamily(
        "mgrd_reward_p95_seconds", "Scoring time of a sample, 95th percentile, worst running experiment."
    )
    latency.add_metric([], max((one.reward_p95_s or 0.0 for one in progress), default=0.0))
    shares = [one.invalid_share for one in progress if one.invalid_share is not None]
    invalid = GaugeMetricFamily(
        "mgrd_invalid_share", "Share of verdicts that are invalid, over running experiments.", labels=["of"]
    )
    invalid.add_metric(["mean"], sum(shares) / len(shares) if shares else 0.0)
    invalid.add_metric(["worst"], max(shares, default=0.0))
    yield from (tokens, latency, invalid)


def _schedulers(standing: Standing) -> Iterator[Metric]:
    now = time.time()
    decisions = CounterMetricFamily("mgrd_scheduler_decisions", "What schedulers decided, by kind.", labels=["kind"])
    total: Count[str] = Count()
    for line in standing.schedulers:
        total.update(line.decisions)
    for kind, count in sorted(total.items())[:50]:
        decisions.add_metric([kind], count)
    seen = GaugeMetricFamily("mgrd_scheduler_seen_seconds", "Since any scheduler's last round; -1: never.")
    seen.add_metric([], min((now - line.at for line in standing.schedulers), default=-1.0))
    spent = GaugeMetricFamily("mgrd_scheduler_decide_seconds", "Time that the last decision took, slowest scheduler.")
    spent.add_metric([], max((line.decide_s for line in standing.schedulers), default=0.0))
    yield from (decisions, seen, spent)
