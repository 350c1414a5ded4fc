"""Many engines as one object: routing, retry, revival, version fence. Synchronous, for the controller.

Neighbours: `crew` holds the actors, `worker` is the actor, `routing` decides who gets what; the controller calls
generate, swap and probe between its other steps.
Invariants: every wait has a limit; a question is answered once, whatever dies meanwhile; no trajectory of another
weights version than the pool's is returned; a revived worker runs the last update before it gets work.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import ray

from rollout.crew import DEATHS, Crew, Member
from rollout.errors import EngineDied, RequestRefused, StaleTrajectory, WeightsLost, WeightsRefused
from rollout.launch import EngineSpec
from rollout.messages import NewWeights, ProbeSequence, Prompt, SamplingSpec, SwapReport, Trajectory, WeightUpdate
from rollout.place import Place
from rollout.routing import cost, spread
from rollout.worker import WorkerReady

log = logging.getLogger(__name__)
PROBE_AGREEMENT = {"float32": 1e-4}  # nats between two engines of one version
PROBE_AGREEMENT_LOW_PRECISION = 0.1


class RolloutPool:
    """`workers` engines of one spec on a running Ray.

    ledger_address: (Redis URL, run id) of the ledger that workers append to; request_timeout_s: how long a worker that
    has work may be silent; places: one a worker, where its engine runs.
    """

    def __init__(
        self,
        spec: EngineSpec,
        workers: int,
        *,
        ledger_address: tuple[str, str] | None = None,
        request_timeout_s: float = 600.0,
        places: Sequence[Place] | None = None,
    ) -> None:
        if workers < 1:
            raise ValueError(f"a pool needs at least one worker, got {workers}")
        if places is not None and len(places) != workers:
            raise ValueError(f"{len(places)} places for {workers} workers; give one of each")
        self._spec = spec
        self._timeout_s = request_timeout_s
        self._crew = Crew(spec, workers, ledger_address, places)
        self._version = 0
        self._asleep = False

    @property
    def version(self) -> int:
        """Weights version that every worker runs; 0 until the first swap."""
        return self._version

    def start(self, timeout_s: float) -> None:
        """Starts all engines at once; `timeout_s` is also the limit of a later revival.

        Raises EngineDied naming the worker that did not come up; none is left running then.
        """
        self._crew.start(timeout_s)

    def shutdown(self) -> None:
        """Ends all workers. Safe to call twice."""
        self._crew.shutdown()

    def generate(
        self,
        prompts: Sequence[Prompt],
        specs: Sequence[SamplingSpec],
        ids: Sequence[str],
        on_done: Callable[[int], object] | None = None,
        ledger_round: int | None = None,
    ) -> list[list[Trajectory]]:
        """`specs[j].samples` trajectories `{ids[j]}/{i}` for each prompt, in order.

        on_done: called with 1 after each question; ledger_round: round under which workers append to the ledger.
        Raises RequestRefused (a question, after the others are done), StaleTrajectory, EngineDied (the work kills one
        engine after the other), LedgerError.
        """
        if not len(prompts) == len(specs) == len(ids):
            raise ValueError(f"{len(prompts)} prompts, {len(specs)} sampling specs, {len(ids)} ids; give one of each")
        self._wake()
        call = _Generation(
            self._crew, prompts, specs, ids, version=self._version, ledger_round=ledger_round, on_done=on_done
        )
        return call.run(self._timeout_s)

    @property
    def memories(self) -> set[str]:
        """Which shared memories the engines see; one where all run on one host."""
        return {member.memory for member in self._crew.members}

    def incarnations(self) -> tuple[int, ...]:
        """Process ids of all workers, none of which is starting any more. Raises EngineDied when they keep dying."""
        self._crew.forgive()
        return tuple(member.pid for member in self._crew.wait_all())

    def swap(
        self,
        update: NewWeights,
        timeout_s: float,
        checksum: Callable[[], str] | None = None,
        lasting: Callable[[], WeightUpdate] | None = None,
    ) -> list[SwapReport]:
        """New weights into every engine, or into none; one report a worker. A worker that dies is revived on the new weights.

        checksum: asked when all engines have answered, what they should have found; None: as in the update. lasting: asked likewise, the
        same weights in a form that can be loaded again later, where `update` passes once. Raises WeightsRefused
        naming the first worker that refuses or finds another checksum, and whatever `checksum` raises; then all engines run the
        weights from before. Raises EngineDied when workers keep dying.
        """
        self._wake()
        reference = ray.put(update)
        if lasting is None:
            self._crew.set_update(reference)
        answers: list[Any] = []
        try:
            answers = self._ask_swap(reference, update.version, timeout_s, again=lasting is None)
            expected = checksum() if checksum is not None else _announced(update)
            reports = [
                _confirmed(member, answer, update.version, expected)
                for member, answer in zip(self._crew.members, answers, strict=True)
            ]
        except EngineDied:  # too many of them: nobody is left to go back
            self._crew.keep_old_update()
            raise
        except BaseException as error:
            self._crew.keep_old_update()
            self._go_back(answers, timeout_s, error)
            raise
        if lasting is not None:
            self._crew.set_update(ray.put(lasting()))
        self._crew.confirm_update()
        self._version = update.version
        return reports

    def _ask_swap(self, reference: Any, version: int, timeout_s: float, *, again: bool) -> list[Any]:
        """Each worker's report or refusal; again: whether a successor that comes up on other weights may still take these."""

        def instead(ready: WorkerReady) -> SwapReport | None:
            if not again:
                return ready.swap or SwapReport(0, "", 0.0)
            return ready.swap if ready.swap is not None and ready.swap.version == version else None

        return self._crew.ask_all(lambda member, _: member.actor.swap.remote(reference), timeout_s, instead)

    def _go_back(self, answers: Sequence[Any], timeout_s: float, cause: BaseException) -> None:
        """Every engine that may hold something of a failed update gets the weights from before; where these are gone with their trainer,
        it starts again on the model's folder, and the fence keeps what it says out until the next swap."""
        changed = [
            member
            for member, answer in zip(self._crew.members, answers, strict=False)
            if not isinstance(answer, WeightsRefused) or isinstance(answer, WeightsLost)
        ]
        if not changed and answers:
            return
        if self._crew.update is None:
            for member in changed:
                self._crew.replace(member, cause, owed=0)
            return
        log.warning("all engines go back to weights version %d: %s", self._version, cause)
        answers = self._ask_swap(self._crew.update, self._version, timeout_s, again=True)
        for member, answer in zip(self._crew.members, answers, strict=True):
            if not isinstance(answer, SwapReport) or answer.version != self._version:
                log.warning("%s could not go back to weights version %d: %s", member, self._version, answer)
                self._crew.forget_update()
                self._crew.replace(member, cause, owed=0)

    def sleep(self) -> None:
        """Engines give the memory of their GPUs to the trainer ranks there until they are next asked for something."""
        if not self._asleep:
            self._crew.ask_all(lambda member, _: member.actor.sleep.remote(), self._timeout_s)
            self._asleep = True

    def _wake(self) -> None:
        if self._asleep:
            self._crew.ask_all(lambda member, _: member.actor.wake.remote(), self._timeout_s)
            self._asleep = False

    def probe(self, sequences: Sequence[ProbeSequence]) -> list[list[float]]:
        """Log-probs [R] of each sequence's response, asked of every engine. Raises EngineDied when two disagree."""
        self._wake()
        reference = ray.put(list(sequences))
        answers = self._crew.ask_all(lambda member, _: member.actor.probe.remote(reference), self._timeout_s)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        limit = PROBE_AGREEMENT.get(self._spec.dtype, PROBE_AGREEMENT_LOW_PRECISION)
        for member, answer in zip(self._crew.members[1:], answers[1:], strict=True):
            apart = max(
                (
                    abs(a - b)
                    for one, two in zip(answers[0], answer, strict=True)
                    for a, b in zip(one, two, strict=True)
                ),
                default=0.0,
            )
            if not apart <= limit:
                raise EngineDied(
                    f"{member} and {self._crew.members[0]} differ by {apart:.2e} nats on the probe at version "
                    f"{self._version} (limit {limit:.0e}); one of them runs other weights"
                )
        return answers[0]


def _announced(update: NewWeights) -> str:
    if isinstance(update, WeightUpdate):
        return update.checksum
    raise ValueError(
        "the checksum of weights that are still on their way is known to their publisher alone; give it to swap"
    )


def _confirmed(member: Member, answer: Any, version: int, checksum: str) -> SwapReport:
    """The answer of an engine that runs what it should. Raises WeightsRefused."""
    if isinstance(answer, Exception):
        raise answer
    if not isinstance(answer, SwapReport) or (answer.version, answer.checksum) != (version, checksum):
        raise WeightsRefused(f"{member} answered {answer} to version {version} with checksum {checksum}")
    return answer


class _Share:
    """Questions one worker got in one go. positions: in the caller's batch, by the worker's own numbering."""

    def __init__(self, member: Member, positions: Sequence[int]) -> None:
        self.member = member
        self.positions = list(positions)
        self.open = set(positions)
        self.heard = time.monotonic()


class _Generation:
    """One call of `RolloutPool.generate`: who works on what, what has been answered."""

    def __init__(
        self,
        crew: Crew,
        prompts: Sequence[Prompt],
        specs: Sequence[SamplingSpec],
        ids: Sequence[str],
        *,
        version: int,
        ledger_round: int | None,
        on_done: Callable[[int], object] | None,
    ) -> None:
        self._crew = crew
        self._prompts, self._specs, self._ids = prompts, specs, ids
        self._version = version
        self._ledger_round = ledger_round
        self._on_done = on_done
        self._shares: dict[Any, _Share] = {}  # by the stream of answers
        self._answers: dict[int, list[Trajectory]] = {}
        self._refusals: dict[int, RequestRefused] = {}

    def run(self, timeout_s: float) -> list[list[Trajectory]]:
        self._crew.forgive()
        try:
            self._give(range(len(self._prompts)))
            while self._shares:
                silent_for = time.monotonic() - min(share.heard for share in self._shares.values())
                ready, _ = ray.wait(list(self._shares), num_returns=1, timeout=max(0.0, timeout_s - silent_for))
                for stream in ready:
                    self._take(stream, timeout_s)
                self._bury_silent(timeout_s)
        finally:
            for stream in self._shares:
                ray.cancel(stream)
        if self._refusals:
            raise self._refusals[min(self._refusals)]
        return [self._answers[position] for position in range(len(self._prompts))]

    def _give(self, positions: Iterable[int]) -> None:
        """Hands questions to the workers that are up, least loaded first."""
        positions = list(positions)
        members = self._crew.ready()
        costs = [cost(self._prompts[j], self._specs[j]) for j in positions]
        loads = [self._load(member) for member in members]
        for member, picks in zip(members, spread(costs, loads), strict=True):
            if picks:
                share = _Share(member, [positions[pick] for pick in picks])
                chosen = [[group[j] for j in share.positions] for group in (self._prompts, self._specs, self._ids)]
                self._shares[member.actor.generate.remote(*chosen, self._ledger_round)] = share

    def _load(self, member: Member) -> int:
        return sum(
            cost(self._prompts[j], self._specs[j])
            for share in self._shares.values()
            if share.member is member
            for j in share.open
        )

    def _take(self, stream: Any, timeout_s: float) -> None:
        """One answer of a stream that has one, or its end."""
        share = self._shares.get(stream)
        if share is None:  # its worker was buried a moment ago
            return
        try:
            number, outcome = ray.get(next(stream), timeout=timeout_s)
        except StopIteration:
            del self._shares[stream]
            return
        except DEATHS as death:
            self._bury(share.member, death)
            return
        position = share.positions[number]
        if isinstance(outcome, RequestRefused):
            self._refusals[position] = outcome
        else:
            self._answers[position] = self._fenced(outcome, share.member)
        share.open.discard(position)
        share.heard = time.monotonic()
        if self._on_done is not None:
            self._on_done(1)

    def _fenced(self, trajectories: list[Trajectory], member: Member) -> list[Trajectory]:
        for trajectory in trajectories:
            if set(trajectory.versions) - {self._version}:
                raise StaleTrajectory(
                    f"{member} sampled {trajectory.id} with weights {sorted(set(trajectory.versions))}, the pool runs "
                    f"version {self._version}; publish the weights again before generating"
                )
        return trajectories

    def _bury_silent(self, timeout_s: float) -> None:
        for share in list(self._shares.values()):
            silent_s = time.monotonic() - share.heard
            if silent_s > timeout_s and share in self._shares.values():
                self._bury(share.member, EngineDied(f"no answer for {silent_s:.0f} s (limit {timeout_s:.0f} s)"))

    def _bury(self, member: Member, death: BaseException) -> None:
        """Replaces a dead worker; what it owed goes to those that are up, or to its successor."""
        streams = [stream for stream, share in self._shares.items() if share.member is member]
        lost = [position for stream in streams for position in self._shares.pop(stream).open]
        self._crew.replace(member, death, owed=len(lost))
        if lost:
            self._give(sorted(lost))
