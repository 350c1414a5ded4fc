"""A Ray actor that runs terms, as the service sees it: calls in order, a limit for each, another actor in place of a lost one.

Neighbours: `service` decides what goes where; `term_runner` is what the actor holds.
Invariants: no call waits longer than its job may take if every unit in it hangs, nor longer than one unit may take on an actor in
which nothing moves; a lost actor loses nothing but its process:
its calls are handed back.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from rewards.errors import RewardError
from rewards.outcomes import Column
from rewards.registry import ResolvedTerm
from rewards.sandbox_process import START_LIMIT_S
from rewards.scorer import ResolvedReward
from rewards.term_runner import Job, TermRunner
from rewards.work import Task, Work
from rollout import LogFile, log_to

KILL_ALLOWANCE_S = 1.0  # for killing a process and starting the next, a unit that hangs
CALL_ALLOWANCE_S = 30.0  # for Ray itself on a loaded machine
WATCH = "watch"  # Ray's name of the thread that answers `sign`
WATCH_S = 10.0  # between two looks at a lane that has been busy for so long
CLOSE_LIMIT_S = 10.0
SANDBOX_DEPTH = 2  # calls of a lane: one runs, one is there already when it ends
ENDPOINT_DEPTH = 8  # run at once; how many requests that makes is the endpoint's own affair


class RewardWorker:
    """The actor: a thin shell around a term runner."""

    def __init__(
        self, reward: ResolvedReward, terms: Mapping[int, ResolvedTerm], log_file: LogFile | None = None
    ) -> None:
        log_to(log_file)
        self._bundles = reward.bundles
        self._runner = TermRunner(terms, reward.spec, reward.sys_path)

    def start(self, samples: int) -> tuple[str, float]:
        """Loads every function; what went wrong, or nothing, and the longest that endpoints may take for `samples`."""
        try:
            for bundle in self._bundles:
                bundle.restore()
            self._runner.start()
        except RewardError as error:
            return str(error), 0.0
        return "", self._runner.endpoint_limit_s(samples)

    def score(self, job: Job) -> tuple[list[Column], float]:
        """Columns and the seconds it took."""
        began = time.perf_counter()
        return self._runner.score(job), time.perf_counter() - began

    @ray.method(concurrency_group=WATCH)
    def sign(self) -> list[tuple[int, ...]]:
        """Answered beside `score`; changes while there is progress."""
        return [sandbox.sign for sandbox in self._runner.sandboxes]

    def close(self) -> None:
        self._runner.close()


@dataclass(slots=True)
class Call:
    """A task on its way. part: what it belongs to; losses: actors it was lost with; result: Ray's reference."""

    task: Task
    part: Work
    start: int
    losses: int = 0
    deadline: float = 0.0
    result: Any = None


class Lane:
    """One actor at a time, with the terms it runs. most: samples of a call at most; log_file: of the actor."""

    def __init__(
        self,
        name: str,
        reward: ResolvedReward,
        terms: Mapping[int, ResolvedTerm],
        most: int,
        log_file: LogFile | None = None,
    ) -> None:
        self.name = name
        self.endpoint = any(term.endpoint for term in terms.values())
        self.calls: list[Call] = []
        self._most = most
        self._depth = ENDPOINT_DEPTH if self.endpoint else SANDBOX_DEPTH
        self._unit_limit_s = reward.spec.timeout_s + KILL_ALLOWANCE_S
        self._endpoint_limit_s = 0.0
        self._arguments = (reward, dict(terms), log_file)
        self._actor = self._create()
        self._starting: Any = None
        self._sign: Any = None  # asked for
        self._last_sign: Any = None
        self._moved_at = 0.0

    @property
    def free(self) -> bool:
        return len(self.calls) < self._depth

    def start(self) -> None:
        """Begins to load functions; `wait_for_start` says what came of it."""
        self._starting = self._actor.start.remote(self._most * self._depth)

    def wait_for_start(self, deadline: float) -> str:
        """What went wrong, or nothing."""
        try:
            problem, self._endpoint_limit_s = ray.get(self._starting, timeout=max(0.0, deadline - time.monotonic()))
        except GetTimeoutError:
            return "it was not ready in time"
        except RayError as error:
            return f"its actor died: {error}"
        return problem

    def send(self, call: Call) -> None:
        """Puts a call behind those that are on their way."""
        if not self.calls:
            self._moved_at = time.monotonic()
        call.result = self._actor.score.remote(call.task.job)
        before = self.calls[-1].deadline if self.calls and not self.endpoint else 0.0
        call.deadline = max(before, time.monotonic()) + self.limit_s(call.task.job)
        self.calls.append(call)

    def limit_s(self, job: Job) -> float:
        """Longest time a job may take if every unit in it hangs."""
        work_s = self._endpoint_limit_s if self.endpoint else job.count * len(job.terms) * self._unit_limit_s
        return work_s + START_LIMIT_S + CALL_ALLOWANCE_S

    def fetch(self, call: Call) -> tuple[tuple[list[Column], float] | None, str]:
        """What the call gave and took, or why the actor must be replaced."""
        try:
            return ray.get(call.result, timeout=0), ""
        except GetTimeoutError:
            return None, f"it did not answer within {self.limit_s(call.task.job):.0f} s"
        except RayTaskError as error:
            return None, f"it gave up: {error.cause or error}"
        except RayError as error:
            return None, f"its actor died ({type(error).__name__})"

    def stalled(self) -> str:
        """Why the actor must be replaced although its calls are not overdue: it gives no sign, or always the same one."""
        now = time.monotonic()
        if not self.calls or now - self._moved_at < WATCH_S:
            return ""
        if self._sign is None:
            self._sign = self._actor.sign.remote()
        if ray.wait([self._sign], timeout=0)[0]:
            try:
                sign = ray.get(self._sign)
            except RayError as error:
                return f"its actor died ({type(error).__name__})"
            self._sign = None
            if sign != self._last_sign:
                self._last_sign, self._moved_at = sign, now
        waited_s = now - self._moved_at
        return f"nothing has moved in it for {waited_s:.0f} s" if waited_s > self.stall_limit_s else ""

    @property
    def stall_limit_s(self) -> float:
        """Longest time without a sign: a unit that hangs, a process that starts."""
        return (self._endpoint_limit_s or self._unit_limit_s) + START_LIMIT_S + CALL_ALLOWANCE_S

    def replace(self) -> list[Call]:
        """Another actor; the calls of the lost one, and those that may have been running have one more loss."""
        ray.kill(self._actor)
        self._actor, self._sign = self._create(), None
        lost, self.calls = self.calls, []
        for call in lost if self.endpoint else lost[:1]:
            call.losses += 1
        return lost

    def _create(self) -> Any:
        # No CPU is reserved: rewards are scored while engines and trainer wait for them.
        options: dict[str, Any] = {
            "num_cpus": 0,
            "max_concurrency": self._depth if self.endpoint else 1,
            "concurrency_groups": {WATCH: 1},
        }
        return ray.remote(**options)(RewardWorker).remote(*self._arguments)

    def ask_to_close(self) -> Any:
        return self._actor.close.remote()

    def kill(self) -> None:
        ray.kill(self._actor)


def close_all(lanes: Sequence[Lane]) -> str:
    """Ends actors with their processes; the name of what kept them from closing by themselves, or nothing."""
    problem = ""
    try:
        ray.get([lane.ask_to_close() for lane in lanes], timeout=CLOSE_LIMIT_S)
    except RayError as error:  # dead or busy: killing is all there is left; its process dies with it
        problem = type(error).__name__
    for lane in lanes:
        lane.kill()
    return problem
