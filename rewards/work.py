"""A part of a batch on its way to verdicts: what the cache knows, jobs for what is left, columns as they come back.

Neighbours: `scorer` and `service` have the jobs done and hand the columns in; `assembly` makes the verdicts.
Invariants: order is kept; samples are encoded once; a sample that can't be encoded is invalid and keeps nobody; what is kept in
the cache is what would be scored again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rewards.assembly import Assembler, Group
from rewards.cache import VerdictCache, may_be_kept, sample_digest, term_prefix
from rewards.messages import Sample, Verdict
from rewards.outcomes import Column
from rewards.registry import ResolvedTerm
from rewards.sample_block import pack_block
from rewards.sample_wire import encode_lines
from rewards.sandbox_wire import CAPACITY, Outcome
from rewards.term_runner import Job

CACHED_ABOVE_S = 1e-4  # asking Redis costs a tenth of that; a faster function is sooner run than looked up
LARGEST_PART = 8192  # samples: bounds what is encoded at once, and what waits behind a sample that hangs
SECONDS_WEIGHT = 0.1  # of the newest job in a function's mean
_EMPTY = Column.empty(0)  # stands for a column that is on its way as a whole
log = logging.getLogger(__name__)


class Planner:
    """What all parts of all batches share: the plan of the specification, the cache, how long functions take.

    cached_above_s: functions that take less on average are not looked up (0: all are).
    """

    def __init__(
        self,
        assembler: Assembler,
        terms: Sequence[ResolvedTerm],
        cache: VerdictCache | None = None,
        cached_above_s: float = CACHED_ABOVE_S,
    ) -> None:
        self.assembler = assembler
        self.endpoints = frozenset(i for i, term in enumerate(terms) if term.endpoint)
        self._block = max(1, CAPACITY // max(1, len(terms) - len(self.endpoints)))
        self.cache = cache
        self.cached_above_s = cached_above_s
        self._prefixes = {i: term_prefix(term) for i, term in enumerate(terms) if may_be_kept(term)}
        self._seconds: dict[int, float] = {}

    def keys_of(self, terms: Sequence[int]) -> dict[int, bytes]:
        """Of the terms that are worth looking up, what their keys start with."""
        if self.cache is None:
            return {}
        return {
            term: self._prefixes[term]
            for term in terms
            if term in self._prefixes and self._seconds.get(term, math.inf) >= self.cached_above_s
        }

    def blocks_of(self, samples: Sequence[Sample]) -> tuple[tuple[int, bytes], ...]:
        """For a job: as many samples in each as fit into one request of a scoring process."""
        parts = [samples[i : i + self._block] for i in range(0, len(samples), self._block)]
        return tuple((len(part), pack_block(part)) for part in parts)

    def note_seconds(self, term: int, column: Column) -> None:
        ran = [value for value in column.seconds if not math.isnan(value)]
        if ran:
            mean, known = math.fsum(ran) / len(ran), self._seconds.get(term)
            self._seconds[term] = mean if known is None else known + SECONDS_WEIGHT * (mean - known)


@dataclass(slots=True)
class _Open:
    """Samples of one group. at: their positions in the part; digests: only where a cache is asked."""

    group: Group
    at: list[int]
    columns: list[Column]
    digests: list[bytes] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Task:
    """A job with what is needed to put its columns in their place. among: positions within the group, None for all."""

    job: Job
    endpoint: bool
    of: _Open
    among: list[int] | None


class Work:
    """Samples of one part. `tasks` are to be done and handed to `settle`; then `verdicts` has one for each sample."""

    def __init__(self, planner: Planner, samples: Sequence[Sample]) -> None:
        self._planner = planner
        self._verdicts: list[Verdict | None] = [None] * len(samples)
        self._open: list[_Open] = []
        self.tasks: list[Task] = []
        self._left = 0
        for group, at in planner.assembler.grouped(samples).items():
            if group.terms:
                self._add(group, at, [samples[i] for i in at])
            else:
                for i in at:
                    self._verdicts[i] = planner.assembler.no_terms(group)

    @property
    def done(self) -> bool:
        return self._left == 0

    def settle(self, task: Task, columns: Sequence[Column]) -> None:
        """columns: one a term of the task's job."""
        self._left -= 1
        planner, opened = self._planner, task.of
        for term, column in zip(task.job.terms, columns, strict=True):
            planner.note_seconds(term, column)
            place = opened.group.terms.index(term)
            if task.among is None:
                opened.columns[place] = column
            else:
                opened.columns[place].place(column, task.among)
        if planner.cache is not None and opened.digests:
            among = range(len(opened.at)) if task.among is None else task.among
            for term, column in zip(task.job.terms, columns, strict=True):
                prefix = planner.keys_of([term]).get(term)
                if prefix is not None:
                    planner.cache.put_many(
                        (prefix + opened.digests[i], column.odd.get(k) or Outcome(column.scores[k]))
                        for k, i in enumerate(among)
                    )

    def lose(self, task: Task, reason: str) -> None:
        """The job can't be done: every sample of it is invalid with the reason."""
        self.settle(task, [Column.lost(task.job.count, reason) for _ in task.job.terms])

    def verdicts(self) -> list[Verdict]:
        """In the order of the samples."""
        for opened in self._open:
            made = self._planner.assembler.verdicts(opened.group, opened.columns)
            for i, verdict in zip(opened.at, made, strict=True):
                self._verdicts[i] = verdict
        return [verdict for verdict in self._verdicts if verdict is not None]

    def _add(self, group: Group, at: list[int], samples: list[Sample]) -> None:
        keys = self._planner.keys_of(group.terms)
        at, samples, blocks, lines = self._encoded(at, samples, bool(keys))
        if not at:
            return
        opened = _Open(group, at, [_EMPTY] * len(group.terms))
        self._open.append(opened)
        if not keys:
            self._add_tasks(opened, group.terms, None, blocks)
            return
        opened.columns = [Column.empty(len(at)) for _ in group.terms]
        opened.digests = [sample_digest(line) for line in lines]
        for terms, among in self._missing(opened, keys).items():
            if len(among) == len(at):
                self._add_tasks(opened, terms, None, self._planner.blocks_of(samples))
            else:
                self._add_tasks(opened, terms, among, self._planner.blocks_of([samples[i] for i in among]))

    def _add_tasks(
        self, opened: _Open, terms: Sequence[int], among: list[int] | None, blocks: tuple[tuple[int, bytes], ...]
    ) -> None:
        for endpoint in (False, True):
            chosen = tuple(term for term in terms if (term in self._planner.endpoints) is endpoint)
            if chosen:
                self.tasks.append(Task(Job(chosen, blocks), endpoint, opened, among))
                self._left += 1

    def _missing(self, opened: _Open, keys: Mapping[int, bytes]) -> dict[tuple[int, ...], list[int]]:
        """Fills in what the cache knows; positions within the group by the terms they still need."""
        assert self._planner.cache is not None
        found = self._planner.cache.get_many([prefix + digest for prefix in keys.values() for digest in opened.digests])
        count = len(opened.digests)
        known = {term: found[k * count : (k + 1) * count] for k, term in enumerate(keys)}
        for term, outcomes in known.items():
            column = opened.columns[opened.group.terms.index(term)]
            for i, outcome in enumerate(outcomes):
                if outcome is not None and outcome.score is not None:
                    column.scores[i] = outcome.score
                    if outcome.parts or outcome.notes:
                        column.odd[i] = outcome
        missing: dict[tuple[int, ...], list[int]] = {}
        for i in range(count):
            terms = tuple(term for term in opened.group.terms if term not in known or known[term][i] is None)
            if terms:
                missing.setdefault(terms, []).append(i)
        return missing

    def _encoded(
        self, at: list[int], samples: list[Sample], as_lines: bool
    ) -> tuple[list[int], list[Sample], tuple[tuple[int, bytes], ...], list[bytes]]:
        """What can be encoded, with its positions; the rest gets its verdict. As lines where a cache is asked, else as blocks."""
        try:
            if as_lines:
                return at, samples, (), encode_lines(samples).splitlines()
            return at, samples, self._planner.blocks_of(samples), []
        except (TypeError, ValueError, OverflowError):
            log.info("a batch of samples can't be encoded as a whole; they are tried one by one")
        good = []
        for i, sample in zip(at, samples, strict=True):
            try:
                encode_lines([sample])
                good.append((i, sample))
            except (TypeError, ValueError, OverflowError) as error:
                self._verdicts[i] = Verdict.invalid(f"the sample can't be handed to reward functions: {error}")
        return self._encoded([i for i, _ in good], [sample for _, sample in good], as_lines)
