"""The reward service of a run: Ray actors around term runners, a batch in, one verdict a sample out.

Neighbours: the controller scores trajectories here; `work` makes jobs of them and verdicts of the outcomes, in this process;
actors (`lanes`) only see encoded samples and return columns. Endpoint terms have one actor, so that their queue and rate limit
are the run's. Invariants: order is kept; every wait has a limit; an actor that dies or does not answer is replaced and its jobs
done again; what loses its actor time after time is invalid with the reason, never 0.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import ray

from rewards.assembly import Assembler
from rewards.cache import CacheCounts, VerdictCache
from rewards.errors import RewardError
from rewards.lanes import WATCH_S, Call, Lane, close_all
from rewards.messages import RewardSpec, Sample, Verdict
from rewards.scorer import ResolvedReward, resolve_reward
from rewards.work import CACHED_ABOVE_S, LARGEST_PART, Planner, Work

if TYPE_CHECKING:
    from collections.abc import Callable

    from rewards.published import PublishedStore
    from rollout import LogFile

FIRST_PART = 64  # samples, until it is known how long they take
SMALLEST_PART = 16
PART_S = 0.25  # of work in a part: a call costs 3 ms of CPU time; a slow sample delays what is behind it in its part
LEAST_SHARE = 0.1  # of that, for the last parts of a batch
SPEED_WEIGHT = 0.5  # of the newest part in the mean
log = logging.getLogger(__name__)


class RewardService:
    """Scores trajectories for a run; needs a running Ray. Use from one thread.

    redis_url: where outcomes of functions are kept ("": nowhere); cached_above_s: only those of functions that take as long;
    store: where published versions are looked up; log_file: of a worker, by its number. `versions` holds the content hash of
    every reward function, for the run's record.
    """

    def __init__(
        self,
        spec: RewardSpec | ResolvedReward,
        *,
        redis_url: str = "",
        cached_above_s: float = CACHED_ABOVE_S,
        store: PublishedStore | None = None,
        log_file: Callable[[int], LogFile] | None = None,
    ) -> None:
        """Raises RewardError for a specification that can't work, before anything starts."""
        self._log_file = log_file
        self.reward = spec if isinstance(spec, ResolvedReward) else resolve_reward(spec, store)
        self.spec = self.reward.spec
        self._planner = Planner(Assembler(self.spec), self.reward.terms, None, cached_above_s)
        self._lanes: list[Lane] = []
        self._seconds = 0.0  # that a sample takes in a lane; 0: not known
        if redis_url:
            self.use_cache(redis_url)

    @property
    def versions(self) -> dict[str, str]:
        return self.reward.versions

    @property
    def cache_counts(self) -> CacheCounts:
        """Hits and misses so far; zeros without a cache."""
        return CacheCounts() if self._planner.cache is None else self._planner.cache.counts

    def use_cache(self, redis_url: str, cached_above_s: float | None = None) -> None:
        """From now on, for a service that is made before Redis is there ("": no cache from now on; None: as before).

        Raises RewardError for a malformed address.
        """
        if self._planner.cache is not None:
            self._planner.cache.close()
        self._planner.cache = VerdictCache(redis_url) if redis_url else None
        if cached_above_s is not None:
            self._planner.cached_above_s = cached_above_s

    def start(self, timeout_s: float = 120.0) -> None:
        """Starts the workers and waits until every function is loaded in each. Raises RewardError."""
        if not ray.is_initialized():
            raise RewardError("the reward service needs Ray; call ray.init() first")
        deadline = time.monotonic() + timeout_s
        terms = dict(enumerate(self.reward.terms))
        functions = {i: term for i, term in terms.items() if not term.endpoint}
        endpoints = {i: term for i, term in terms.items() if term.endpoint}
        if functions:
            names = [f"reward worker {i}" for i in range(self.spec.workers)]
            self._lanes = [
                Lane(name, self.reward, functions, LARGEST_PART, self._log_of(i)) for i, name in enumerate(names)
            ]
        if endpoints:
            log_file = self._log_of(len(self._lanes))
            self._lanes.append(Lane("the endpoint worker", self.reward, endpoints, LARGEST_PART, log_file))
        for lane in self._lanes:
            lane.start()
        for lane in self._lanes:
            if problem := lane.wait_for_start(deadline):
                self.shutdown()
                raise RewardError(f"{lane.name} did not start: {problem}")

    def _log_of(self, number: int) -> LogFile | None:
        return self._log_file(number) if self._log_file else None

    def score(self, samples: Sequence[Sample]) -> list[Verdict]:
        """One verdict a sample, in order. Raises RewardError when the service is not started."""
        if not self._lanes:
            raise RewardError("the reward service is not running; call start() first")
        batch = _Batch(samples, {False: deque(), True: deque()}, [None] * len(samples))
        try:
            while self._hand_out(batch):
                self._collect(batch)
        finally:
            for lane in self._lanes:
                lane.calls.clear()
        return [verdict for verdict in batch.verdicts if verdict is not None]

    def shutdown(self) -> None:
        """Ends the workers with their processes. May be called twice."""
        lanes, self._lanes = self._lanes, []
        if lanes and ray.is_initialized():
            problem = close_all(lanes)
            if problem:
                log.info("reward workers are killed without closing: %s", problem)
        if self._planner.cache is not None:
            self._planner.cache.close()

    def _hand_out(self, batch: _Batch) -> bool:
        """Fills the lanes; parts are cut when one has nothing to do, so that fast and slow ones share the batch.

        False when nothing is left.
        """
        while True:
            for lane in sorted(self._lanes, key=lambda lane: len(lane.calls)):
                waiting = batch.waiting[lane.endpoint]
                if lane.free and waiting:
                    lane.send(waiting.popleft())
            hungry = any(lane.free and not batch.waiting[lane.endpoint] for lane in self._lanes)
            if batch.next < len(batch.samples) and hungry:
                self._cut(batch)
            elif not any(lane.free and batch.waiting[lane.endpoint] for lane in self._lanes):
                return any(lane.calls for lane in self._lanes)

    def _cut(self, batch: _Batch) -> None:
        start = batch.next
        batch.next += self._part_size(len(batch.samples) - start)
        part = Work(self._planner, batch.samples[start : batch.next])
        for task in part.tasks:
            batch.waiting[task.endpoint].append(Call(task, part, start))
        batch.take(part, start)

    def _collect(self, batch: _Batch) -> None:
        """Waits for the first call that ends, or is overdue, and takes what has ended."""
        lane_of = {call.result: (lane, call) for lane in self._lanes for call in lane.calls}
        first_deadline = min(call.deadline for _, call in lane_of.values())
        done, _ = ray.wait(list(lane_of), timeout=max(0.0, min(WATCH_S, first_deadline - time.monotonic())))
        overdue = [r for r, (_, call) in lane_of.items() if r not in done and call.deadline <= time.monotonic()]
        for result in (*done, *overdue):
            lane, call = lane_of[result]
            if call not in lane.calls:  # its actor was replaced a moment ago
                continue
            scored, problem = lane.fetch(call)
            if scored is None:
                self._replace(lane, batch, problem)
                continue
            columns, seconds = scored
            lane.calls.remove(call)
            if not lane.endpoint:
                self._note_speed(call.task.job.count, seconds)
            call.part.settle(call.task, columns)
            batch.take(call.part, call.start)

        for lane in self._lanes:
            if problem := lane.stalled():
                self._replace(lane, batch, problem)

    def _replace(self, lane: Lane, batch: _Batch, problem: str) -> None:
        """When a machine goes, all its actors go: a job may meet each of them dead once, through no fault of its own."""
        log.warning("%s is replaced: %s", lane.name, problem)
        for call in reversed(lane.replace()):
            if call.losses <= len(self._lanes):
                batch.waiting[call.task.endpoint].appendleft(call)
            else:
                call.part.lose(
                    call.task, f"the reward worker was lost {call.losses} times on this part of the batch: {problem}"
                )
                batch.take(call.part, call.start)

    def _part_size(self, left: int) -> int:
        """Samples of the next part: as many as take PART_S, fewer where that leaves a lane without work."""
        wanted = round(PART_S / self._seconds) if self._seconds else FIRST_PART
        least = max(SMALLEST_PART, round(wanted * LEAST_SHARE))
        share = -(-left // len(self._lanes))
        return min(left, LARGEST_PART, max(least, min(wanted, share)))

    def _note_speed(self, samples: int, seconds: float) -> None:
        each = seconds / samples
        self._seconds = each if not self._seconds else self._seconds + SPEED_WEIGHT * (each - self._seconds)


@dataclass(slots=True)
class _Batch:
    """One call of `RewardService.score`. waiting: by whether an endpoint is asked; next: first sample of the next part."""

    samples: Sequence[Sample]
    waiting: dict[bool, deque[Call]]
    verdicts: list[Verdict | None]
    next: int = 0

    def take(self, part: Work, start: int) -> None:
        """The verdicts of a part that has everything."""
        if part.done:
            made = part.verdicts()
            self.verdicts[start : start + len(made)] = made
