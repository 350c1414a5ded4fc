"""Reward functions in a killable process: a batch in, an outcome for every unit out, whatever the functions do.

Neighbours: `scorer` packs samples and reads outcomes; `sandbox_process` is one process, `sandbox_wire` what is said to it.
Invariants: order is kept; a unit that hangs, dies or goes over a limit loses only its own score, what was behind it is scored in a
fresh process; nobody is blamed for what an earlier unit may have done (leaked memory or threads, a broken channel).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from rewards.errors import RewardError
from rewards.registry import ResolvedTerm
from rewards.sample_block import BlockLines
from rewards.sandbox_end import BatchEnd
from rewards.sandbox_process import ScoringProcess
from rewards.sandbox_wire import (
    CAPACITY,
    MAX_REQUEST_BYTES,
    Limits,
    Outcome,
    Scored,
    Unit,
    pack_batch,
    pack_block_request,
)

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

    @property
    def sign(self) -> tuple[int, ...]:
        """Changes while units are worked on, with the next one at the latest; may be read from any thread."""
        process = self._process
        return (self.processes_started, *(process.sign if process is not None else ()))

    def start(self) -> None:
        """Raises RewardError when no process can be started."""
        self._live()

    def close(self) -> None:
        for process in (self._process, self._spare):
            if process is not None:
                process.kill()
        self._process = self._spare = None

    def score(self, lines: Sequence[bytes], units: Sequence[Unit]) -> list[Outcome]:
        """An outcome for every unit, in order. Otherwise as `score_arrays`."""
        return self.score_arrays(lines, units).outcomes()

    def score_arrays(self, lines: Sequence[bytes], units: Sequence[Unit]) -> Scored:
        """Scores of all units, in order. lines: samples as `encode_sample` makes them.

        Raises RewardError when processes can't be started or keep ending before they score anything.
        """
        return self._score(lines, units, None)

    def score_block(self, block: bytes, count: int, terms: Sequence[int]) -> Scored:
        """Every one of `terms` on every sample of a block (`sample_block`), sample by sample. Raises as `score_arrays`."""
        size = count * len(terms)
        most = min(MAX_REQUEST_BYTES, (self.limits.memory_mb << 20) // MEMORY_OF_LINE)
        ran = None
        if 0 < size <= CAPACITY and len(block) <= most:
            process = self._live()
            was_fresh = process.units_done == 0
            end = process.run(pack_block_request(block, terms), size)
            if end.alive and end.scored == b"\x01" * size:
                return Scored(end.scores, end.seconds, {})
            ran = (end, was_fresh)
        return self._score(BlockLines(block), [Unit(i, term) for i in range(count) for term in terms], ran)

    def _score(self, lines: Sequence[bytes], units: Sequence[Unit], ran: tuple[BatchEnd, bool] | None) -> Scored:
        """ran: how a first request for all units has ended, and whether its process was fresh."""
        found = Scored.nothing(len(units))
        pending = self._small_enough(lines, units, found) if ran is None else list(range(len(units)))
        alone: set[int] = set()
        size, idle_ends = CAPACITY, 0
        while pending:
            if ran is not None:
                batch, (end, was_fresh), ran = pending, ran, None
            else:
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
            left, suspects = self._settle(end, units, batch, was_fresh, found)
            rest = pending[len(batch) :]
            if end.alive and not left:
                pending = rest
                continue
            idle_ends = 0 if len(left) < len(batch) or end.began else idle_ends + 1
            if idle_ends >= MAX_IDLE_ENDS:
                raise RewardError(
                    f"{idle_ends} scoring processes in a row ended before scoring anything; "
                    "the machine may be out of memory or the process limit reached"
                )
            alone.update(suspects, (batch[i] for i in end.together))
            pending = suspects + [i for i in left if i not in suspects] + rest
            # After an end that nobody explains, ever smaller requests close in on the unit that is to blame.
            explained = end.alive or end.blamed is not None or bool(suspects) or bool(end.together)
            size = CAPACITY if explained else max(1, len(batch) // 2)
        return found

    def _settle(
        self, end: BatchEnd, units: Sequence[Unit], batch: list[int], was_fresh: bool, found: Scored
    ) -> tuple[list[int], list[int]]:
        """Notes what stands; the units that are left, and those of them that are to be tried first in a fresh process.

        What may be due to earlier units (memory, CPU time, threads) only stands for the first unit of a process.
        """
        if end.scored == b"\x01" * len(batch) and batch == list(range(batch[0], batch[0] + len(batch))):
            whole = slice(batch[0], batch[0] + len(batch))
            found.scores[whole], found.seconds[whole] = end.scores, end.seconds
            return [], []
        odd = {
            position: outcome
            for position, outcome in end.odd.items()
            if not outcome.out_of_memory or (was_fresh and position == 0)
        }
        doubted = [batch[position] for position in end.odd if position not in odd]
        blamed = end.blamed
        if blamed is None and not end.alive and end.began and len(batch) == 1 and not any(end.scored) and not end.odd:
            blamed = 0
        if blamed is not None and end.doubtful and not (was_fresh and blamed == 0):
            doubted.append(batch[blamed])
        elif blamed is not None:
            name = self.terms[units[batch[blamed]].term].name
            odd[blamed] = Outcome(None, f"{name} {end.reason or end.broken or 'ended its process'}")
            log.warning("%s", odd[blamed].reason)
        left = []
        for position, i in enumerate(batch):
            if position in odd:
                found.odd[i] = odd[position]
                score = odd[position].score
                found.scores[i] = math.nan if score is None else score
                found.seconds[i] = odd[position].seconds
            elif end.scored and end.scored[position]:
                found.scores[i], found.seconds[i] = end.scores[position], end.seconds[position]
            else:
                left.append(i)
        return left, doubted

    def _small_enough(self, lines: Sequence[bytes], units: Sequence[Unit], found: Scored) -> list[int]:
        """Units whose sample a process can hold; the others get their outcome."""
        limit = (self.limits.memory_mb << 20) // MEMORY_OF_LINE
        if max(map(len, lines), default=0) <= limit:
            return list(range(len(units)))
        for i, unit in enumerate(units):
            size = len(lines[unit.sample])
            if size > limit:
                name = self.terms[unit.term].name
                room = f"{size >> 20} MB in {self.limits.memory_mb} MB of memory"
                found.odd[i] = Outcome(None, f"{name} can't hold a sample of {room}", True)
        return [i for i in range(len(units)) if i not in found.odd]

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
