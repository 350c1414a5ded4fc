"""Threads that score for HTTP requests, each with scoring processes of its own.

Neighbours: `http` hands requests over; each thread keeps a few started `scorer.Scorer`s, since most requests use the same
reward. Invariants: a scorer is used by one thread only; what waits is bounded, more is refused at once; closing leaves no process
behind.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from functools import partial

from rewards.errors import RewardError
from rewards.messages import Sample, Verdict
from rewards.scorer import ResolvedReward, Scorer

PART_SAMPLES = 64  # of a request that a thread takes at a time: the others get their turn, large ones are shared
KEPT_SCORERS = 4  # started ones a thread; each holds a process of 30 MB or more


class Busy(Exception):
    """Too much is waiting already."""


class TooSlow(Exception):
    """A request was not done within its limit."""


class CanNotStart(RewardError):
    """The scoring processes of a request did not start: its reward can't be loaded, or this machine is out of something."""


class ScoringPool:
    """workers: threads; max_waiting: samples that may wait, of all requests together."""

    def __init__(self, workers: int = 2, max_waiting: int = 20_000) -> None:
        self.workers = workers
        self.max_waiting = max_waiting
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="score")
        self._own = threading.local()
        self._lock = threading.Lock()
        self._started: set[Scorer] = set()
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """Samples that were handed over and have no verdict yet."""
        return self._waiting

    def score(self, reward: ResolvedReward, samples: Sequence[Sample], timeout_s: float) -> list[Verdict]:
        """One verdict a sample, in order. Raises Busy, TooSlow, CanNotStart, and RewardError when processes keep dying."""
        parts = [samples[start : start + PART_SAMPLES] for start in range(0, len(samples), PART_SAMPLES)]
        with self._lock:
            if self._waiting + len(samples) > self.max_waiting:
                raise Busy(f"{self._waiting} samples are waiting, the limit is {self.max_waiting}; try again later")
            self._waiting += len(samples)
        futures: list[Future[list[Verdict]]] = []
        for part in parts:
            future = self._threads.submit(self._score, reward, part)
            future.add_done_callback(partial(self._done, len(part)))
            futures.append(future)
        deadline = time.monotonic() + timeout_s
        try:
            verdicts: list[Verdict] = []
            for future in futures:
                verdicts += future.result(timeout=max(0.0, deadline - time.monotonic()))
            return verdicts
        except FutureTimeout:
            raise TooSlow(f"not done within {timeout_s:.0f} s; send fewer samples at a time") from None
        finally:
            for future in futures:
                future.cancel()

    def close(self) -> None:
        """Ends threads and processes; what was waiting is given up."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            started, self._started = self._started, set()
        for scorer in started:
            scorer.close()

    def _done(self, count: int, _: object) -> None:
        with self._lock:
            self._waiting -= count

    def _score(self, reward: ResolvedReward, samples: Sequence[Sample]) -> list[Verdict]:
        """Runs in a thread of the pool."""
        scorer = self._scorer(reward)
        try:
            return scorer.score(samples)
        except RewardError:
            self._drop(reward)
            raise

    def _scorer(self, reward: ResolvedReward) -> Scorer:
        kept = self._kept()
        key = _key(reward)
        if key not in kept:
            scorer = Scorer(reward)
            try:
                scorer.start()
            except RewardError as error:
                scorer.close()
                raise CanNotStart(str(error)) from error
            kept[key] = scorer
            with self._lock:
                self._started.add(scorer)
            if len(kept) > KEPT_SCORERS:
                self._close(kept.popitem(last=False)[1])
        kept.move_to_end(key)
        return kept[key]

    def _drop(self, reward: ResolvedReward) -> None:
        scorer = self._kept().pop(_key(reward), None)
        if scorer is not None:
            self._close(scorer)

    def _close(self, scorer: Scorer) -> None:
        with self._lock:
            self._started.discard(scorer)
        scorer.close()

    def _kept(self) -> OrderedDict[str, Scorer]:
        """This thread's started scorers, the one used last at the end."""
        if not hasattr(self._own, "scorers"):
            self._own.scorers = OrderedDict()
        kept: OrderedDict[str, Scorer] = self._own.scorers
        return kept


def _key(reward: ResolvedReward) -> str:
    """Everything a scorer depends on: specification and pinned terms are plain values."""
    return repr((reward.spec, reward.terms))
