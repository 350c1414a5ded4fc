"""The reward service of a run: Ray actors around scorers, one batch in, one verdict a sample out.

Neighbours: the controller scores trajectories here; each actor holds a `scorer.Scorer` with its own killable process.
Invariants: order is kept; every wait has a limit; an actor that dies or does not answer is replaced and its part of the
batch scored again; what loses its actor time after time is invalid with the reason, never 0.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from rewards.errors import RewardError
from rewards.messages import RewardSpec, Sample, Verdict
from rewards.sandbox_process import START_LIMIT_S
from rewards.scorer import ResolvedReward, Scorer, resolve_reward

PART_SAMPLES = (
    64  # of a batch that an actor gets at a time: small enough to share the work, large enough to hide a call
)
KILL_ALLOWANCE_S = 1.0  # for killing a process and starting the next, a unit that hangs
PART_ALLOWANCE_S = 30.0  # for Ray itself on a loaded machine
log = logging.getLogger(__name__)


class RewardWorker:
    """The actor: a thin shell around a scorer."""

    def __init__(self, reward: ResolvedReward) -> None:
        self._scorer = Scorer(reward)

    def start(self) -> str:
        """Starts the scoring process; returns what went wrong, or nothing."""
        try:
            self._scorer.start()
        except RewardError as error:
            return str(error)
        return ""

    def score(self, samples: list[Sample]) -> list[Verdict]:
        return self._scorer.score(samples)

    def close(self) -> None:
        self._scorer.close()


@dataclass(frozen=True, slots=True)
class _Part:
    """A slice of the batch on its way."""

    start: int
    stop: int
    losses: int = 0


class RewardService:
    """Scores trajectories for a run; needs a running Ray. Use from one thread.

    `versions` holds the content hash of every reward function, for the run's record.
    """

    def __init__(self, spec: RewardSpec) -> None:
        """Raises RewardError for a specification that can't work, before anything starts."""
        self.spec = spec
        self._reward = resolve_reward(spec)
        self._workers: list[Any] = []

    @property
    def versions(self) -> dict[str, str]:
        return self._reward.versions

    def start(self, timeout_s: float = 120.0) -> None:
        """Starts the workers and waits until every function is loaded in each. Raises RewardError."""
        if not ray.is_initialized():
            raise RewardError("the reward service needs Ray; call ray.init() first")
        deadline = time.monotonic() + timeout_s
        self._workers = [self._create() for _ in range(self.spec.workers)]
        for index, started in enumerate([worker.start.remote() for worker in self._workers]):
            try:
                problem = ray.get(started, timeout=max(0.0, deadline - time.monotonic()))
            except GetTimeoutError:
                problem = f"not ready within {timeout_s:.0f} s"
            except RayError as error:
                problem = f"its actor died: {error}"
            if problem:
                self.shutdown()
                raise RewardError(f"reward worker {index} did not start: {problem}")

    def score(self, samples: Sequence[Sample]) -> list[Verdict]:
        """One verdict a sample, in order. Raises RewardError when the service is not started or can't keep scoring."""
        if not self._workers:
            raise RewardError("the reward service is not running; call start() first")
        verdicts: list[Verdict | None] = [None] * len(samples)
        waiting = deque(
            _Part(start, min(start + PART_SAMPLES, len(samples))) for start in range(0, len(samples), PART_SAMPLES)
        )
        free = deque(range(len(self._workers)))
        running: dict[Any, tuple[_Part, int, float]] = {}
        while waiting or running:
            while waiting and free:
                part, index = waiting.popleft(), free.popleft()
                call = self._workers[index].score.remote(list(samples[part.start : part.stop]))
                running[call] = (part, index, time.monotonic() + self._limit_s(part))
            first_deadline = min(deadline for _, _, deadline in running.values())
            done, _ = ray.wait(list(running), timeout=max(0.0, first_deadline - time.monotonic()))
            overdue = [call for call in running if call not in done and running[call][2] <= time.monotonic()]
            for call in (*done, *overdue):
                part, index, _ = running.pop(call)
                scored, problem = self._fetch(call, self._limit_s(part))
                if scored is not None:
                    verdicts[part.start : part.stop] = scored
                else:
                    log.warning("reward worker %d is replaced: %s", index, problem)
                    self._replace(index)
                    self._again_or_invalid(part, problem, waiting, verdicts)
                free.append(index)
        return [verdict for verdict in verdicts if verdict is not None]

    def shutdown(self) -> None:
        """Ends the workers with their processes. May be called twice."""
        workers, self._workers = self._workers, []
        if not ray.is_initialized():
            return
        try:
            ray.get([worker.close.remote() for worker in workers], timeout=10.0)
        except RayError as error:  # dead or busy: killing is all there is left; its process dies with it
            log.info("reward workers are killed without closing: %s", type(error).__name__)
        for worker in workers:
            ray.kill(worker)

    def _create(self) -> Any:
        # No CPU is reserved: rewards are scored while engines and trainer wait for them.
        return ray.remote(RewardWorker).options(num_cpus=0).remote(self._reward)

    def _limit_s(self, part: _Part) -> float:
        """Longest time a part may take if every unit in it hangs."""
        units = (part.stop - part.start) * len(self.spec.terms)
        return units * (self.spec.timeout_s + KILL_ALLOWANCE_S) + START_LIMIT_S + PART_ALLOWANCE_S

    @staticmethod
    def _fetch(call: Any, limit_s: float) -> tuple[list[Verdict] | None, str]:
        """The verdicts, or why the worker must be replaced. Raises RewardError when the worker itself gave up."""
        try:
            return ray.get(call, timeout=0), ""
        except GetTimeoutError:
            return None, f"it did not answer within {limit_s:.0f} s"
        except RayTaskError as error:
            raise RewardError(f"scoring failed: {error.cause or error}") from error
        except RayError as error:
            return None, f"its actor died ({type(error).__name__})"

    def _replace(self, index: int) -> None:
        ray.kill(self._workers[index])
        self._workers[index] = self._create()

    def _again_or_invalid(
        self, part: _Part, problem: str, waiting: deque[_Part], verdicts: list[Verdict | None]
    ) -> None:
        """When a machine goes, all its actors go: a part may meet each of them dead once, through no fault of its own."""
        losses = part.losses + 1
        if losses <= len(self._workers):
            waiting.appendleft(_Part(part.start, part.stop, losses))
            return
        lost = Verdict.invalid(f"the reward worker was lost {losses} times on this part of the batch: {problem}")
        verdicts[part.start : part.stop] = [lost] * (part.stop - part.start)
