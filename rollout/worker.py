"""A Ray actor around one engine, and nothing more.

Neighbours: `pool` makes, calls, kills and revives these; `engine` does the work; `ledger` keeps what was generated.
Invariants: a question's trajectories are in the ledger before they are handed on; whatever the engine raises reaches the
pool with its type and cause.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from rollout.engine import Engine, Outcome
from rollout.errors import EngineDied, RequestRefused, WeightsRefused
from rollout.launch import EngineSpec, engine_environment
from rollout.ledger import Ledger
from rollout.logs import LogFile, log_to
from rollout.messages import NewWeights, ProbeSequence, Prompt, SamplingSpec, SwapReport, Trajectory
from rollout.transfer import memory_identity, sweep

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """A worker that can generate. pid: of the actor; swap: the report on the update it was started with, if any; memory: which shared
    memory it sees (`memory_identity`)."""

    pid: int
    seconds: float
    swap: SwapReport | None
    memory: str


class RolloutWorker:
    """Made by `RolloutPool` with `ray.remote`; one event loop, so a swap can come in while a batch runs.

    ledger_address: (Redis URL, run id), or None when trajectories are kept nowhere but in the answer; log_file: of its own;
    number: of the worker in its pool.
    """

    def __init__(
        self,
        spec: EngineSpec,
        ledger_address: tuple[str, str] | None = None,
        log_file: LogFile | None = None,
        number: int = 0,
    ) -> None:
        log_to(log_file)
        os.environ.update(engine_environment(spec))
        self._engine = Engine(spec)
        self._number = number
        self._ledger: Ledger[Any] | None = Ledger(*ledger_address) if ledger_address else None

    async def start(self, update: NewWeights | None = None) -> WorkerReady:
        """Starts the engine, on `update` when there was one before. Raises EngineDied."""
        began = time.perf_counter()
        if update is None:
            _sweep()
        await self._engine.start()
        try:
            swap = await self.swap(update) if update is not None else None
        except WeightsRefused as refusal:
            raise EngineDied(f"the engine came up, but could not take the last weights: {refusal}") from refusal
        logger.info(
            "engine of weights version %d up in %.1f s", update.version if update else 0, time.perf_counter() - began
        )
        return WorkerReady(os.getpid(), time.perf_counter() - began, swap, memory_identity())

    async def generate(
        self,
        prompts: Sequence[Prompt],
        specs: Sequence[SamplingSpec],
        ids: Sequence[str],
        ledger_round: int | None = None,
    ) -> AsyncIterator[tuple[int, Outcome]]:
        """As `Engine.stream`; with a round, each question's trajectories go to the ledger first.

        Raises EngineDied, LedgerError.
        """
        async for position, outcome in self._engine.stream(prompts, specs, ids):
            if ledger_round is not None and not isinstance(outcome, RequestRefused):
                await asyncio.to_thread(self._record, ledger_round, outcome)
            yield position, outcome

    def _record(self, ledger_round: int, trajectories: Sequence[Trajectory]) -> None:
        if self._ledger is None:
            raise ValueError("a ledger round was given to a worker without ledger; give the pool a ledger_address")
        new = self._ledger.append_all(ledger_round, trajectories)
        if new < len(trajectories):
            logger.warning(
                "%d of %d trajectories of %s were in the ledger already; it keeps the earlier ones",
                len(trajectories) - new,
                len(trajectories),
                trajectories[0].question_id,
            )

    async def swap(self, update: NewWeights) -> SwapReport:
        return await self._engine.swap(update, _fetch, self._number)

    async def sleep(self) -> None:
        await self._engine.sleep()

    async def wake(self) -> None:
        await self._engine.wake()

    async def probe(self, sequences: Sequence[ProbeSequence]) -> list[list[float]]:
        return await self._engine.probe(sequences)

    async def shutdown(self) -> None:
        await self._engine.shutdown()
        _sweep()


async def _fetch(data: Any) -> bytes:
    """Bytes of a bucket, from Ray's object store where they lie there. Raises WeightsRefused."""
    from ray import ObjectRef
    from ray.exceptions import RayError

    if not isinstance(data, ObjectRef):
        return bytes(data)
    try:
        return bytes(await data)
    except RayError as error:
        raise WeightsRefused(f"a bucket is gone from the object store: {error}") from error


def _sweep() -> None:
    for left in sweep():
        logger.warning("removed weights in shared memory that a dead publisher had left (%s)", left.name)
