"""Reward functions in a killable process: a batch in, an outcome for every unit out, whatever the functions do.

Neighbours: `scorer` packs samples and reads outcomes; `sandbox_process` is one process, `sandbox_wire` what is said to it.
Invariants: order is kept; a unit that hangs, dies or uses up the memory loses only its own score, what was behind it is
scored in a fresh process; nobody is blamed for what an earlier unit may have done (leaked memory, a broken channel).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from rewards.errors import RewardError
from rewards.registry import ResolvedTerm
from rewards.sandbox_process import BatchEnd, ScoringProcess
from rewards.sandbox_wire import Limits, Outcome, Unit, pack_batch

MAX_IDLE_ENDS = 3  # processes in a row that ended without having scored anything and without a unit to blame
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

    @property
    def pid(self) -> int | None:
        """Process id of the running scoring process, which is also its process group."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Raises RewardError when no process can be started."""
        self._live()

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process = None

    def score(self, lines: Sequence[bytes], units: Sequence[Unit]) -> list[Outcome]:
        """An outcome for every unit, in order. lines: samples as JSON without line breaks.

        Raises RewardError when processes can't be started or keep ending before they score anything.
        """
        outcomes: list[Outcome | None] = [None] * len(units)
        pending = list(range(len(units)))
        careful, idle_ends = False, 0
        while pending:
            batch = pending[:1] if careful else pending
            process = self._live()
            was_fresh = process.units_done == 0
            end = process.run(pack_batch(lines, [units[i] for i in batch]), len(batch), self.limits.timeout_s)
            if not end.alive:
                self._process = None
            if not end.alive and end.began and len(batch) == 1 and not end.outcomes:
                end.blamed = 0
            for position, outcome in self._settled(end, units, batch, was_fresh).items():
                outcomes[batch[position]] = outcome
            left = [i for i in pending if outcomes[i] is None]
            idle_ends = 0 if len(left) < len(pending) or end.began else idle_ends + 1
            if idle_ends >= MAX_IDLE_ENDS:
                raise RewardError(
                    f"{idle_ends} scoring processes in a row ended before scoring anything; "
                    "the machine may be out of memory or the process limit reached"
                )
            # After an end that nobody explains, units go one by one until the next one that is to blame.
            explained = end.alive or end.blamed is not None or any(o.out_of_memory for o in end.outcomes.values())
            careful = (careful and end.blamed is None) or not explained
            pending = left
        return [outcome for outcome in outcomes if outcome is not None]

    def _settled(
        self, end: BatchEnd, units: Sequence[Unit], batch: Sequence[int], was_fresh: bool
    ) -> dict[int, Outcome]:
        """Outcomes by position that stand; out of memory only stands for the first unit of a process."""
        settled = {
            position: outcome
            for position, outcome in end.outcomes.items()
            if not outcome.out_of_memory or (was_fresh and position == 0)
        }
        if end.blamed is not None:
            name = self.terms[units[batch[end.blamed]].term].name
            settled[end.blamed] = Outcome(None, f"{name} {end.reason or 'ended its process'}")
            log.warning("%s", settled[end.blamed].reason)
        return settled

    def _live(self) -> ScoringProcess:
        if self._process is None:
            self._process = ScoringProcess(self.terms, self.limits.memory_mb, self.sys_path, self.environment)
            self.processes_started += 1
        return self._process
