"""Reward functions in a killable process: a batch in, an outcome for every unit out, whatever the functions do.

Neighbours: `scorer` packs samples and reads outcomes; `sandbox_process` is one process, `sandbox_wire` what is said to it.
Invariants: order is kept; a unit that hangs, dies or goes over a limit loses only its own score, what was behind it is scored in a
fresh process; nobody is blamed for what an earlier unit may have done (leaked memory or threads, a broken channel).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from rewards.errors import RewardError
from rewards.registry import ResolvedTerm
from rewards.sandbox_end import BatchEnd
from rewards.sandbox_process import ScoringProcess
from rewards.sandbox_wire import CAPACITY, MAX_REQUEST_BYTES, Limits, Outcome, Unit, pack_batch

MAX_IDLE_ENDS = 3  # processes in a row that ended without having scored anything and without a unit to blame
MEMORY_OF_LINE = 16  # a sample's share of the process's memory is at most one of so many
log = logging.getLogger(__name__)


class Sandbox:
    """Scores with `terms` within `limits`; sys_path: where modules are looked for; environment: variables the functions see
    beside the scrubbed ones (secrets by name); network: whether they may open connections.

    Use from one thread: the kernel ends the process when the thread that started it ends (another is then started).
    """

    def __init__(
        self,
        terms: Sequence[ResolvedTerm],
        *,
        limits: Limits,
        sys_path: Sequence[str],
        environment: Mapping[str, str] = MappingProxyType({}),
        network: bool = False,
    ) -> None:
        self.terms = tuple(terms)
        self.limits = limits
        self.sys_path = tuple(sys_path)
        self.environment = dict(environment)
        self.network = network
        self.processes_started = 0
        self._process: ScoringProcess | None = None
        self._spare: ScoringProcess | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the running scoring process, which is also its process group."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Raises RewardError when no process can be started."""
        self._live()

    def close(self) -> None:
        for process in (self._process, self._spare):
            if process is not None:
                process.kill()
        self._process = self._spare = None

    def score(self, lines: Sequence[bytes], units: Sequence[Unit]) -> list[Outcome]:
        """An outcome for every unit, in order. lines: samples as `encode_sample` makes them.

        Raises RewardError when processes can't be started or keep ending before they score anything.
        """
        outcomes: list[Outcome | None] = [None] * len(units)
        pending = self._small_enough(lines, units, outcomes)
        alone: set[int] = set()
        size, idle_ends = CAPACITY, 0
        while pending:
            batch = self._next(pending, size, lines, units)
            process = self._live()
            was_fresh = process.units_done == 0
            request = pack_batch(
                lines,
                [units[i] for i in batch],
                [position for position, i in enumerate(batch) if i in alone] if alone else (),
            )
            end = process.run(request, len(batch))
            if not end.alive:
                self._process = None
            settled = self._settled(end, units, batch, was_fresh)
            for position, outcome in settled.items():
                outcomes[batch[position]] = outcome
            if end.alive and len(settled) == len(batch):
                pending = pending[len(batch) :]
                continue
            idle_ends = 0 if settled or end.began else idle_ends + 1
            if idle_ends >= MAX_IDLE_ENDS:
                raise RewardError(
                    f"{idle_ends} scoring processes in a row ended before scoring anything; "
                    "the machine may be out of memory or the process limit reached"
                )
            suspects = [batch[i] for i in self._suspects(end, settled)]
            alone.update(suspects, (batch[i] for i in end.together))
            pending = suspects + [i for i in pending if outcomes[i] is None and i not in suspects]
            # After an end that nobody explains, ever smaller requests close in on the unit that is to blame.
            explained = end.alive or end.blamed is not None or bool(suspects) or bool(end.together)
            size = CAPACITY if explained else max(1, len(batch) // 2)
        return [outcome for outcome in outcomes if outcome is not None]

    def _settled(
        self, end: BatchEnd, units: Sequence[Unit], batch: Sequence[int], was_fresh: bool
    ) -> dict[int, Outcome]:
        """Outcomes by position that stand. What may be due to earlier units only stands for the first unit of a process."""
        settled = {
            position: outcome
            for position, outcome in end.outcomes.items()
            if not outcome.out_of_memory or (was_fresh and position == 0)
        }
        if end.alive:
            return settled
        blamed = end.blamed
        if blamed is None and end.began and len(batch) == 1 and not end.outcomes:
            blamed = 0
        if blamed is not None and (not end.doubtful or (was_fresh and blamed == 0)):
            name = self.terms[units[batch[blamed]].term].name
            settled[blamed] = Outcome(None, f"{name} {end.reason or end.broken or 'ended its process'}")
            log.warning("%s", settled[blamed].reason)
        return settled

    @staticmethod
    def _suspects(end: BatchEnd, settled: Mapping[int, Outcome]) -> list[int]:
        """Positions of units that are to be tried again as the first of a process."""
        suspects = [position for position, outcome in end.outcomes.items() if outcome.out_of_memory]
        if end.blamed is not None:
            suspects.append(end.blamed)
        return [position for position in suspects if position not in settled]

    def _small_enough(self, lines: Sequence[bytes], units: Sequence[Unit], outcomes: list[Outcome | None]) -> list[int]:
        """Units whose sample a process can hold; the others get their outcome."""
        limit = (self.limits.memory_mb << 20) // MEMORY_OF_LINE
        if max(map(len, lines), default=0) <= limit:
            return list(range(len(units)))
        for i, unit in enumerate(units):
            if len(lines[unit.sample]) > limit:
                size = len(lines[unit.sample]) >> 20
                outcomes[i] = Outcome(
                    None,
                    f"{self.terms[unit.term].name} can't hold a sample of {size} MB in {self.limits.memory_mb} MB of memory",
                    True,
                )
        return [i for i, outcome in enumerate(outcomes) if outcome is None]

    @staticmethod
    def _next(pending: list[int], size: int, lines: Sequence[bytes], units: Sequence[Unit]) -> list[int]:
        """The first units of `pending`: at most `size`, and samples of at most MAX_REQUEST_BYTES unless it is one unit."""
        batch = pending[:size]
        total = 0
        for count, i in enumerate(batch):
            total += len(lines[units[i].sample])
            if total > MAX_REQUEST_BYTES and count > 0:
                return batch[:count]
        return batch

    def _live(self) -> ScoringProcess:
        """A process that is ready. Once one has died another is kept in waiting, so that a hang costs its limit and no start."""
        if self._process is not None:
            return self._process
        process, self._spare = self._spare, None
        if process is not None and process.is_gone():  # nobody's fault
            process.kill()
            process = None
        if process is None:
            process = self._started()
        process.wait()
        self._process = process
        self.processes_started += 1
        if self.processes_started > 1:
            self._spare = self._started()
        return process

    def _started(self) -> ScoringProcess:
        return ScoringProcess(self.terms, self.limits, self.sys_path, self.environment, self.network)
