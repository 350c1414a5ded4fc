"""Calls to the Ray actors of a trainer's ranks, watched: signs of life are asked for until every answer is in.

Neighbours: `actor.group` says which method is called on which ranks; `actor.heartbeat` judges the signs of life, `actor.ranks` ends
processes, `actor.deaths` is what is raised. Invariants: a rank that dies, fails, falls silent or gets no further ends the whole world
(collectives cannot go on without it); every wait has a limit; `TrainerDied` is raised after every rank has ended.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from actor import phases, ranks
from actor.deaths import TrainerDied, last_lines
from actor.heartbeat import Failure, Finding, Watch, WatchLimits
from actor.ranks import RankProcess
from actor.specs import TrainerSpec
from actor.worker import WATCHING, TrainerWorker, phase_file, worker_environment

if TYPE_CHECKING:
    from rollout import Place

log = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 10.0
HALF_GPU = 0.5  # the other half is an engine's
LOOK_S = 1.0  # at most between two looks at silence and progress
LAST_BEAT_S = 1.0  # for the ranks of a world that ends to say what they were doing
# After an exception: that long another rank may turn out to be dead, and then the exception was only its echo.
ECHO_S = 1.0
# Exceptions that say of themselves that a peer is gone; its death is known within this time, or it is on another side of the network.
LOST_PEER_S = 10.0
LOST_PEER_ERRORS = ("DistBackendError", "DistNetworkError", "DistStoreError")
LOST_PEER_WORDS = ("gloo/transport", "Connection closed by peer", "Connection reset by peer")

Asked = tuple[str, Sequence[int], Sequence[Any]]  # method, ranks, arguments


@dataclass(frozen=True, slots=True)
class Start:
    """The limit of a world that starts. timeout_s: as it was given; deadline: on time.monotonic's clock."""

    timeout_s: float
    deadline: float

    @classmethod
    def within(cls, timeout_s: float) -> Start:
        return cls(timeout_s, time.monotonic() + timeout_s)


@dataclass
class _Call:
    """method: for people; waiting: answers to come, by reference; beats: signs of life asked for."""

    method: str
    watch: Watch
    waiting: dict[Any, int]
    results: dict[int, Any] = field(default_factory=dict)
    beats: dict[Any, int] = field(default_factory=dict)


class RankActors:
    """The actors of one world. step_timeout_s: limit without progress in every call; limits: of heartbeat and teardown."""

    def __init__(self, step_timeout_s: float, limits: WatchLimits) -> None:
        self._step_timeout_s = step_timeout_s
        self._limits = limits
        self._workers: list[Any] = []
        self._places: Sequence[Place | None] = []
        self.processes: list[RankProcess] = []  # of the last world, in rank order

    def __len__(self) -> int:
        """Ranks that run; 0 before `start` and after an end."""
        return len(self._workers)

    def start(self, spec: TrainerSpec, places: Sequence[Place] | None, limit: Start) -> None:
        """One actor a rank, each in its place. Raises TrainerDied."""
        self._places = places or [None] * spec.world_size
        self.processes = []
        worker = ray.remote(concurrency_groups={WATCHING: 1})(TrainerWorker)  # type: ignore[call-overload]
        options: dict[str, Any] = {
            "num_cpus": 1,
            "num_gpus": 0 if spec.device != "cuda" else HALF_GPU if spec.colocated else 1,
            "max_restarts": 0,
            "runtime_env": {"env_vars": worker_environment(spec)},
        }
        for rank, place in enumerate(self._places):
            placed = worker.options(**options, scheduling_strategy=place.strategy("DEFAULT") if place else "DEFAULT")
            self._workers.append(placed.remote(spec, rank, place.log_file if place else None))
        every = range(len(self._workers))
        identities = self.call_each([("identify", every, ())], limit)
        self.processes = [identities[rank] for rank in every]

    def close(self) -> None:
        """Let the ranks leave their process groups, then end them; nothing where none runs."""
        if not self._workers:
            return
        try:
            ray.wait([w.close.remote() for w in self._workers], num_returns=len(self._workers), timeout=CLOSE_TIMEOUT_S)
        except RayError as error:
            log.info("a trainer rank was gone before it was closed: %s", error)
        if left := self._end():
            log.error("trainer ranks are left after %.0f s: %s", self._limits.teardown_s, ", ".join(map(str, left)))

    def call_each(
        self, calls: Sequence[Asked], limit: Start | None = None, progress_s: float | None = None
    ) -> dict[int, Any]:
        """Each method on its ranks with its arguments (stored once), all at the same time; answers by rank. limit: while the world
        starts, when imports hold the interpreter's lock for long, and only the deadline counts; progress_s: instead of the limit of
        every call. Raises TrainerDied for the first rank that fails."""
        method = " and ".join(name for name, _, _ in calls)
        if not self._workers:
            raise TrainerDied(0, f"{method} was called, but the trainer is not running; call start first")
        waiting: dict[Any, int] = {}
        for name, asked, arguments in calls:
            stored = [item if isinstance(item, ray.ObjectRef) else ray.put(item) for item in arguments]
            waiting |= {getattr(self._workers[rank], name).remote(*stored): rank for rank in asked}
        limits = self._limits if limit is None else replace(self._limits, hang_s=math.inf)
        if limit is not None:
            progress_s = math.inf
        elif progress_s is None:
            progress_s = self._step_timeout_s
        every = range(len(self._workers))
        return self._collect(_Call(method, Watch(every, limits, progress_s, time.monotonic()), waiting), limit)

    def _collect(self, call: _Call, limit: Start | None) -> dict[int, Any]:
        while call.waiting:
            now = time.monotonic()
            call.watch.look(now)
            if limit is not None and now >= limit.deadline:
                cause = f"no answer to start within {limit.timeout_s:.0f} s ({call.method})"
                raise self._died(call, min(call.waiting.values()), cause, Failure.LATE)
            for rank in call.watch.due(now):
                call.beats[self._beat(rank)] = rank
                call.watch.asked(rank)
            if finding := call.watch.finding(set(call.waiting.values()), now):
                raise self._found(call, finding)
            step = min(LOOK_S, self._limits.heartbeat_s, math.inf if limit is None else limit.deadline - now)
            done, _ = ray.wait([*call.waiting, *call.beats], num_returns=1, timeout=step)
            for reference in done:
                self._take(call, reference)
        return call.results

    def _beat(self, rank: int) -> Any:
        return self._workers[rank].beat.options(concurrency_group=WATCHING).remote()

    def _take(self, call: _Call, reference: Any) -> None:
        """One answer that has come: a result, or a sign of life."""
        beating = reference in call.beats
        rank = call.beats.pop(reference) if beating else call.waiting[reference]
        try:
            answer = ray.get(reference, timeout=self._step_timeout_s)
        except RayTaskError as error:
            raise self._raised(call, rank, error) from error
        except RayActorError as error:
            log.error("Ray on trainer rank %d: %s", rank, error)
            raise self._died(call, rank, f"the process died during {call.method}", Failure.DIED) from error
        except GetTimeoutError as error:
            cause = f"the result of {call.method} did not arrive within {self._step_timeout_s:.0f} s"
            raise self._died(call, rank, cause, Failure.CUT_OFF) from error
        if beating:
            call.watch.heard(rank, answer, time.monotonic())
        else:
            del call.waiting[reference]
            call.results[rank] = answer

    def _raised(self, call: _Call, rank: int, error: RayTaskError) -> TrainerDied:
        """Whether the exception of a rank is its own, or the echo of a peer's death."""
        said = f"{type(error.cause).__name__}: {error.cause}"
        lost_peer = said.startswith(LOST_PEER_ERRORS) or any(word in said for word in LOST_PEER_WORDS)
        others = [other for other in range(len(self._workers)) if other != rank]
        dead = self._first_dead(others, LOST_PEER_S if lost_peer else ECHO_S)
        if dead is not None:
            log.info("trainer rank %d lost rank %d: %s", rank, dead, said)
            return self._died(call, dead, f"the process died during {call.method}", Failure.DIED)
        if lost_peer:
            return self._died(call, rank, f"{call.method} lost a peer: {said}", Failure.CUT_OFF)
        return self._died(call, rank, f"{call.method} failed: {said}", Failure.RAISED)

    def _first_dead(self, among: Sequence[int], within_s: float) -> int | None:
        """A rank whose process has ended, or ends within that time."""
        deadline = time.monotonic() + within_s
        while among and time.monotonic() < deadline:
            beats = {self._beat(rank): rank for rank in among}
            done, _ = ray.wait(list(beats), num_returns=len(beats), timeout=max(0.0, deadline - time.monotonic()))
            for reference in done:
                try:
                    ray.get(reference)
                except RayActorError:
                    return beats[reference]
            time.sleep(0.05)
        return None

    def _found(self, call: _Call, finding: Finding) -> TrainerDied:
        rank, seconds = finding.rank, finding.seconds
        if finding.failure is Failure.STUCK:
            cause = f"no rank got further in {call.method} for {seconds:.0f} s, and this one is the last to have moved"
            return self._died(call, rank, cause, Failure.STUCK)
        seen = ranks.state(self.processes[rank]) if self._is_here(rank) else ""
        kernel = f" (its process is there, {seen})" if seen else ""
        cause = f"no sign of life for {seconds:.1f} s during {call.method}{kernel}"
        return self._died(call, rank, cause, Failure.HUNG)

    def _is_here(self, rank: int) -> bool:
        return bool(self.processes) and self.processes[rank].node == ray.get_runtime_context().get_node_id()

    def _died(self, call: _Call, rank: int, cause: str, failure: Failure) -> TrainerDied:
        """Ends the world; the error says what is known of it."""
        doing = self._doing(call)
        place = self._places[rank]
        log_file = place.log_file.path if place and place.log_file else ""
        if lines := last_lines(log_file):
            log.error("last lines of trainer rank %d, %s:\n%s", rank, log_file, "\n".join(lines))
        process = self.processes[rank] if self.processes else None
        began = time.monotonic()
        if left := self._end():
            cause += (
                f"; not ended within {self._limits.teardown_s:.0f} s: {', '.join(map(str, left))}; end them by hand"
            )
            failure = Failure.UNENDED
        died = TrainerDied(rank, cause, failure, process=process, phases=doing, log_file=log_file)
        log.error("%s; all ranks ended %.1f s later", died, time.monotonic() - began)
        return died

    def _doing(self, call: _Call) -> dict[int, str]:
        """Phase of each rank: its own word where it still has one, else its record, else its last sign of life."""
        last = {rank: beat.phase for rank, beat in call.watch.beats.items()}
        for rank, place in enumerate(self._places):
            file = phase_file(place.log_file) if place else None
            if file and (phase := phases.recorded(file)):
                last[rank] = phase
        asked = {self._beat(rank): rank for rank in range(len(self._workers))}
        done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=LAST_BEAT_S)
        for reference in done:
            try:
                last[asked[reference]] = ray.get(reference).phase
            except RayError:
                continue  # the dead say nothing
        return dict(sorted(last.items()))

    def _end(self) -> list[RankProcess]:
        """Every rank's process, by Ray and by signal; returns what is left."""
        workers, self._workers = self._workers, []
        for worker in workers:
            ray.kill(worker, no_restart=True)
        return ranks.end(self.processes, self._limits.teardown_s)
