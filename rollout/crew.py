"""The actors of a pool: start, ask, replace, stop.

Neighbours: `pool` works through this; `worker` is what runs in each actor.
Invariants: every wait has a limit; a member's successor runs the last update before anybody can reach it; members keep
name and order over replacements.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from rollout.errors import EngineDied, RequestRefused, WeightsLost, WeightsRefused, reason
from rollout.launch import EngineSpec
from rollout.place import Place
from rollout.worker import RolloutWorker, WorkerReady

log = logging.getLogger(__name__)

MOST_DEATHS = 3  # in one call of the pool: beyond it the work kills engines, not bad luck
CALLS_AT_ONCE = 16  # a batch, a swap, a probe and their successors share a worker's event loop
SHUTDOWN_S = 10.0
HALF_GPU = 0.5  # the other half is the trainer rank's
DEATHS = (EngineDied, RayActorError, GetTimeoutError)
REFUSALS = (WeightsLost, WeightsRefused, RequestRefused)  # the narrower first


class Member:
    """One of the crew. place: where its actors run; starting: reference to the `WorkerReady` of an actor that is not up
    yet; pid: of the actor; memory: which shared memory it sees."""

    def __init__(self, number: int, place: Place) -> None:
        self.number = number
        self.name = f"rollout worker {number}"
        self.place = place
        self.actor: Any = None
        self.starting: Any = None
        self.pid = 0
        self.memory = ""

    def __str__(self) -> str:
        return self.name


class Crew:
    """`count` rollout workers of one spec. Not thread-safe.

    places: one a worker, None: wherever there is room, and no CPU is reserved.
    """

    def __init__(
        self,
        spec: EngineSpec,
        count: int,
        ledger_address: tuple[str, str] | None,
        places: Sequence[Place] | None = None,
    ) -> None:
        self.members = [Member(number, place) for number, place in enumerate(places or [Place()] * count)]
        self._spec = spec
        self._ledger_address = ledger_address
        self._start_timeout_s = 0.0
        self._update: Any = None  # reference to the weights that a new actor starts with
        self._confirmed: Any = None  # the one that every member runs
        self._deaths = 0

    def start(self, timeout_s: float) -> None:
        """Raises EngineDied when one does not come up; all are stopped then."""
        if not ray.is_initialized():
            raise EngineDied("rollout workers need a running Ray; call ray.init or start the embedded services first")
        self._start_timeout_s = timeout_s
        try:
            for member in self.members:
                self._launch(member)
            deadline = time.monotonic() + timeout_s
            for member in self.members:
                self._await_start(member, deadline)
        except BaseException:
            self.shutdown()
            raise

    def shutdown(self) -> None:
        """Asks every worker to end its engine, then ends the actor."""
        actors = [member.actor for member in self.members if member.actor is not None]
        if actors and ray.is_initialized():
            ended = [actor.shutdown.remote() for actor in actors]
            ray.wait(ended, num_returns=len(ended), timeout=SHUTDOWN_S)
        for member in self.members:
            self._kill(member)

    def forgive(self) -> None:
        """Deaths are counted a call: a new call starts from none."""
        self._deaths = 0

    def set_update(self, reference: Any) -> None:
        """The update that a successor starts with from now on."""
        self._update = reference

    @property
    def update(self) -> Any:
        """Reference to what a successor starts with; None: the weights of the model's folder."""
        return self._update

    def forget_update(self) -> None:
        """Nothing can be loaded from the last update any more: successors start on the model's folder."""
        self._update = self._confirmed = None

    def confirm_update(self) -> None:
        self._confirmed = self._update

    def keep_old_update(self) -> None:
        self._update = self._confirmed

    def wait_all(self) -> list[Member]:
        """All members, once none is starting any more. Raises EngineDied when successors keep dying."""
        self.ready()
        while starting := [member for member in self.members if member.starting is not None]:
            for member in starting:
                self._settle(member, time.monotonic() + self._start_timeout_s)
        return self.members

    def ready(self) -> list[Member]:
        """Members that can work, at least one. Those still starting are left out unless nobody else is there.

        Raises EngineDied when successors keep dying.
        """
        if any(member.actor is None for member in self.members):
            raise EngineDied("the rollout pool is not running; call start() first")
        while True:
            for member in self.members:
                if member.starting is not None and ray.wait([member.starting], timeout=0)[0]:
                    self._settle(member, time.monotonic() + self._start_timeout_s)
            up = [member for member in self.members if member.starting is None]
            if up:
                return up
            references = [member.starting for member in self.members]
            done, _ = ray.wait(references, num_returns=1, timeout=self._start_timeout_s)
            if not done:
                raise EngineDied(f"no rollout worker came up again within {self._start_timeout_s:.0f} s")

    def ask_all(
        self,
        question: Callable[[Member, Any], Any],
        timeout_s: float,
        instead: Callable[[WorkerReady], Any] | None = None,
    ) -> list[Any]:
        """One answer a member to `question(member, update reference) -> reference`.

        A member that dies is replaced; `instead` turns its successor's `WorkerReady` into the answer, where that is None it is
        asked again. A member that refuses answers with the WeightsRefused or RequestRefused, which names it. Raises EngineDied when
        successors keep dying.
        """
        self.forgive()
        self.ready()
        answers: dict[str, Any] = {}
        deadline = time.monotonic() + timeout_s
        while len(answers) < len(self.members):
            for member in self.members:
                if member.starting is not None:
                    ready = self._settle(member, time.monotonic() + self._start_timeout_s)
                    if ready is not None and instead is not None and member.name not in answers:
                        answer = instead(ready)
                        if answer is not None:
                            answers[member.name] = answer
            asked = {m.name: question(m, self._update) for m in self.members if m.name not in answers}
            for member in self.members:
                if member.name in asked:
                    try:
                        left = max(0.0, deadline - time.monotonic())
                        answers[member.name] = ray.get(asked[member.name], timeout=left)
                    except (WeightsRefused, RequestRefused) as refusal:  # Ray's copy holds only a remote traceback
                        kind = next(kind for kind in REFUSALS if isinstance(refusal, kind))
                        answers[member.name] = kind(f"{member}: {_cause(refusal)}")
                    except DEATHS as death:
                        self.replace(member, death, owed=0)
                        deadline = time.monotonic() + timeout_s
        return [answers[member.name] for member in self.members]

    def replace(self, member: Member, death: BaseException, owed: int) -> None:
        """Kills what is left of a member and starts its successor, without waiting for it.

        Raises EngineDied when too many died in this call.
        """
        self._deaths += 1
        cause = _cause(death)
        log.warning("%s died with %d questions open (%s); starting another", member, owed, cause)
        self._kill(member)
        if self._deaths > MOST_DEATHS:
            raise EngineDied(
                f"{self._deaths} rollout workers died in one call, the last was {member}: {cause}"
            ) from death
        self._launch(member)

    def _launch(self, member: Member) -> None:
        gpus = 0 if self._spec.on_cpu else HALF_GPU if self._spec.colocated else self._spec.tensor_parallel
        reserved = self._spec.threads if member.place.reserved else 0
        options = {
            "num_cpus": reserved,
            "num_gpus": gpus,
            "max_concurrency": CALLS_AT_ONCE,
            "scheduling_strategy": member.place.strategy("SPREAD"),
        }
        worker = ray.remote(RolloutWorker).options(**options)
        member.actor = worker.remote(self._spec, self._ledger_address, member.place.log_file, member.number)
        member.starting = member.actor.start.remote(self._update)

    def _await_start(self, member: Member, deadline: float) -> WorkerReady:
        try:
            ready = ray.get(member.starting, timeout=max(0.0, deadline - time.monotonic()))
        except DEATHS as death:
            raise EngineDied(f"{member} did not start: {_cause(death)}") from death
        member.starting, member.pid, member.memory = None, ready.pid, ready.memory
        log.info("%s (pid %d) up in %.1f s", member, ready.pid, ready.seconds)
        return ready

    def _settle(self, member: Member, deadline: float) -> WorkerReady | None:
        """A successor that is up, or None after it was replaced in its turn."""
        try:
            return self._await_start(member, deadline)
        except EngineDied as death:
            self.replace(member, death, owed=0)
            return None

    def _kill(self, member: Member) -> None:
        if member.actor is not None and ray.is_initialized():
            ray.kill(member.actor, no_restart=True)
        member.actor = member.starting = None


def _cause(death: BaseException) -> str:
    """What killed a worker, without Ray's wrapping."""
    if isinstance(death, GetTimeoutError):
        return "it gave no answer in time"
    if isinstance(death, RayTaskError):
        cause = death.cause
        return str(cause) if isinstance(cause, (EngineDied, WeightsRefused, RequestRefused)) else reason(cause)
    return str(death) if isinstance(death, EngineDied) else reason(death)
