"""A version of the weights from the trainer into every engine, or into none: which way, within what time, at what speed.

Neighbours: `parts` holds one a run; `actor.publishing` sends, `rollout.pool` lets every engine take and confirm.
Invariants: all engines serve one version afterwards, the new one or the one from before; a refused publish is tried once more and then
ends the run with the reason; a dead trainer or pool passes as what it raised.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from actor import Meeting, Published, PublishRefused, PublishSpec, TrainerDied, Transport
from orchestrator.errors import RunFailed
from rollout import (
    LiveWeights,
    RolloutPool,
    SharedWeights,
    SwapReport,
    Way,
    WeightsRefused,
    WeightUpdate,
    journal_path,
    lease_base,
)

log = logging.getLogger(__name__)
ATTEMPTS = 2
GRACE_S = 5.0  # after a limit, for whoever waits longer than the one who has it


@dataclass(frozen=True, slots=True)
class PublishReport:
    """seconds: from the call until every engine had confirmed; total_bytes: of the version; written_bytes: by the trainer;
    loaded_bytes: by all engines; refused: attempts before the one that worked."""

    transport: Transport
    seconds: float
    total_bytes: int
    written_bytes: int
    loaded_bytes: int
    refused: int

    def metrics(self) -> dict[str, float]:
        return {
            "publish/seconds": self.seconds,
            "publish/bytes": float(self.total_bytes),
            "publish/written_bytes": float(self.written_bytes),
            "publish/loaded_bytes": float(self.loaded_bytes),
            "publish/gb_per_s": self.total_bytes / 1e9 / max(self.seconds, 1e-9),
            "publish/refused": float(self.refused),
        }


class PublishingTrainer(Protocol):
    """What a publish asks of a trainer: `actor.TrainerGroup` says what each does and raises."""

    def memory(self) -> str: ...
    def meet(self, spec: PublishSpec, receivers: int) -> Meeting: ...
    def prepare_publish(self, spec: PublishSpec) -> None: ...
    def publish(
        self, number: int, spec: PublishSpec, timeout_s: float, meeting: Meeting | None = None
    ) -> Published: ...
    def confirm(self, number: int) -> None: ...


class WeightPublisher:
    """Of one run. spec: how; auto: by shared memory where the trainer and all engines see the same, else as `spec` says; workers_each: of
    an engine (its tensor-parallel ranks)."""

    def __init__(
        self, trainer: PublishingTrainer, pool: RolloutPool, spec: PublishSpec, *, auto: bool, workers_each: int = 1
    ) -> None:
        self._trainer, self._pool = trainer, pool
        self._spec, self._auto = spec, auto
        self._limit_s = spec.limit_s
        self._workers_each = workers_each
        self._number = 0
        self._met: tuple[tuple[int, ...], Meeting] | None = None  # which engines, and where

    def publish(self, version: int) -> PublishReport:
        """Raises RunFailed when an engine refuses twice; all engines then serve the version from before."""
        if self._auto:
            self._spec, self._auto = dataclasses.replace(self._spec, transport=self._nearest()), False
            log.info("weights go to the engines by %s", self._spec.transport)
        elif self._number == 0 and self._spec.transport is Transport.SHARED_MEMORY:
            self._check_memory()
        for attempt in range(ATTEMPTS):
            began = time.perf_counter()
            try:
                sent, reports = self._attempt(version)
            except (WeightsRefused, PublishRefused) as refusal:
                log.warning("weights version %d were not published (attempt %d): %s", version, attempt + 1, refusal)
                reason = refusal
                continue
            seconds, loaded = time.perf_counter() - began, sum(report.loaded_bytes for report in reports)
            return PublishReport(
                self._spec.transport, seconds, sent.total_bytes, sent.written_bytes, loaded, refused=attempt
            )
        raise RunFailed(
            f"weights version {version} could not be published by {self._spec.transport} in {ATTEMPTS} attempts: {reason}; the engines "
            f"still serve version {self._pool.version}. See publish.transport and docs/PUBLISH.md"
        ) from reason

    def _check_memory(self) -> None:
        if self._nearest() is not Transport.SHARED_MEMORY:
            raise RunFailed(
                "publish.transport=shared_memory, but the engines do not all see the shared memory of trainer rank 0 (another host or "
                "another container); take publish.transport=auto or object_store"
            )

    def _nearest(self) -> Transport:
        same = self._pool.memories == {self._trainer.memory()}
        return Transport.SHARED_MEMORY if same else Transport.OBJECT_STORE

    def _attempt(self, version: int) -> tuple[Published, list[SwapReport]]:
        self._number += 1
        transport = self._spec.transport
        if transport is Transport.OBJECT_STORE:
            sent, reports = self._in_buckets(version)
        elif transport is Transport.SHARED_MEMORY:
            sent, reports = self._in_shared_memory(version)
        else:
            sent, reports = self._live(version)
        self._trainer.confirm(self._number)
        return sent, reports

    def _in_buckets(self, version: int) -> tuple[Published, list[SwapReport]]:
        sent = self._trainer.publish(self._number, self._spec, self._limit_s)
        update = WeightUpdate(version, sent.checksum, sent.buckets, self._spec.only_changed)
        return sent, self._pool.swap(update, self._limit_s)

    def _in_shared_memory(self, version: int) -> tuple[Published, list[SwapReport]]:
        journal = str(journal_path(lease_base(self._spec.name), self._number))
        self._trainer.prepare_publish(self._spec)
        update = SharedWeights(version, journal, self._number, self._limit_s, self._spec.only_changed)
        with self._sending(None) as sending:
            reports = self._pool.swap(update, self._limit_s + GRACE_S, checksum=lambda: sending.result().checksum)
            return sending.result(), reports

    def _live(self, version: int) -> tuple[Published, list[SwapReport]]:
        present = self._pool.incarnations()
        if self._met is None or self._met[0] != present:
            self._met = (present, self._trainer.meet(self._spec, len(present) * self._workers_each))
        meeting, way = self._met[1], Way.LEND if self._spec.transport is Transport.CUDA_IPC else Way.BROADCAST
        update = LiveWeights(version, way, meeting.address, self._number, meeting.size, self._limit_s)

        def lasting() -> WeightUpdate:
            return WeightUpdate(version, sending.result().checksum, sending.result().buckets)

        try:
            with self._sending(meeting) as sending:
                limit_s = self._limit_s + GRACE_S
                reports = self._pool.swap(update, limit_s, lambda: sending.result().checksum, lasting)
                return sending.result(), reports
        except BaseException:
            self._met = None  # whoever is still in it must not be met again
            raise

    @contextmanager
    def _sending(self, meeting: Meeting | None) -> Iterator[Future[Published]]:
        """The trainer writes while the engines read. Where engines refuse because it died, its death is what is raised."""
        with ThreadPoolExecutor(1) as sender:
            limit_s = self._limit_s + GRACE_S
            sending = sender.submit(self._trainer.publish, self._number, self._spec, limit_s, meeting)
            try:
                yield sending
            except WeightsRefused as refused:
                if isinstance(death := sending.exception(), TrainerDied):
                    raise death from refused
                raise
