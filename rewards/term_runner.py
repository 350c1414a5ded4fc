"""Terms applied to jobs: each in the sandbox it belongs to, or at its endpoint.

Neighbours: `scorer` holds one in its process, the actors of `service` one each; `sandbox` and `endpoints.runner` do the work.
Invariants: functions that may open connections, and functions that are given secrets, share a process only with functions that
declare the same; a secret's value is struck out of every reason and note; order is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import msgspec

from rewards.errors import RewardError
from rewards.messages import RewardSpec
from rewards.outcomes import Column
from rewards.registry import ResolvedTerm
from rewards.sample_block import BlockLines
from rewards.sandbox import Sandbox
from rewards.sandbox_wire import Limits, Outcome, Unit
from rewards.secrets import gather, redact


@dataclass(frozen=True, slots=True)
class Job:
    """Every term on every sample. terms: places in the specification; blocks: the samples, `(how many, pack_block of them)`."""

    terms: tuple[int, ...]
    blocks: tuple[tuple[int, bytes], ...]

    @property
    def count(self) -> int:
        return sum(count for count, _ in self.blocks)


class Bench(Protocol):
    """Where units are scored: a sandbox or the endpoints."""

    def start(self) -> None: ...
    def close(self) -> None: ...
    def score(self, lines: Sequence[bytes], units: Sequence[Unit]) -> list[Outcome]: ...


class Group:
    """Terms that share a bench. own: place among them by place in the specification."""

    def __init__(self, bench: Bench, places: Sequence[int], secret: bool) -> None:
        self.bench = bench
        self.own = {place: i for i, place in enumerate(places)}
        self.secret = secret

    def score(self, job: Job, places: Sequence[int]) -> Column:
        """Sample by sample, for each the terms in the order of `places`."""
        terms = [self.own[place] for place in places]
        column = Column.empty(0)
        for count, block in job.blocks:
            if isinstance(self.bench, Sandbox):
                found = self.bench.score_block(block, count, terms)
                column.extend(Column(found.scores, found.seconds, found.odd))
            else:
                units = [Unit(i, term) for i in range(count) for term in terms]
                column.extend(Column.of(self.bench.score(BlockLines(block), units)))
        if self.secret:
            column.odd = {i: _redacted(outcome) for i, outcome in column.odd.items()}
        return column


def _redacted(outcome: Outcome) -> Outcome:
    if not outcome.reason and not outcome.notes and not outcome.parts:
        return outcome
    return msgspec.structs.replace(
        outcome,
        reason=redact(outcome.reason),
        notes=redact(outcome.notes),
        parts={redact(name): value for name, value in outcome.parts.items()},
    )


def limits_of(spec: RewardSpec) -> Limits:
    return Limits(spec.timeout_s, spec.cpu_s, spec.memory_mb, spec.open_files, spec.threads)


class TermRunner:
    """terms: by place in the specification; sys_path: where modules of functions are looked for. Use from one thread.

    A second group and those after it work in threads of their own, at the same time as the first.
    """

    def __init__(self, terms: Mapping[int, ResolvedTerm], spec: RewardSpec, sys_path: Sequence[str]) -> None:
        self._terms = dict(terms)
        self._limits = limits_of(spec)
        self._costs = Path(spec.costs_file) if spec.costs_file else None
        self._sys_path = tuple(sys_path)
        self._groups: list[Group] = []
        self._threads: list[ThreadPoolExecutor] = []

    @property
    def sandboxes(self) -> list[Sandbox]:
        """Those of a started runner, in the order of their first terms."""
        return [group.bench for group in self._groups if isinstance(group.bench, Sandbox)]

    def start(self) -> None:
        """Loads every function. Raises RewardError for a missing secret or a function that can't be loaded."""
        if self._groups:
            return
        self._groups = self._make_groups()
        self._threads = [ThreadPoolExecutor(1, f"rewards-{i}") for i in range(1, len(self._groups))]
        try:
            self._at_once({i: group.bench.start for i, group in enumerate(self._groups)})
        except RewardError:
            self.close()
            raise

    def close(self) -> None:
        """May be called twice."""
        groups, self._groups = self._groups, []
        self._at_once({i: group.bench.close for i, group in enumerate(groups)})
        for thread in self._threads:
            thread.shutdown()
        self._threads = []

    def endpoint_limit_s(self, samples: int) -> float:
        """Longest that the endpoints may take for so many samples; 0 without any."""
        limits = [getattr(group.bench, "limit_s", None) for group in self._groups]
        return max((limit(samples) for limit in limits if limit is not None), default=0.0)

    def score(self, job: Job) -> list[Column]:
        """A column for each of the job's terms. Raises RewardError when scoring can't be kept going."""
        self.start()
        shares = {i: [p for p in job.terms if p in group.own] for i, group in enumerate(self._groups)}
        try:
            scored = self._at_once(
                {i: partial(self._groups[i].score, job, places) for i, places in shares.items() if places}
            )
        except msgspec.MsgspecError as error:
            raise RewardError(f"a sample has a field of the wrong type: {error}") from error
        columns: dict[int, Column] = {}
        for i, places in shares.items():
            for k, place in enumerate(places):
                columns[place] = scored[i].part(k, len(places)) if len(places) > 1 else scored[i]
        return [columns[place] for place in job.terms]

    def _make_groups(self) -> list[Group]:
        alike: dict[tuple[bool, bool, tuple[str, ...]], list[int]] = {}
        for place, term in self._terms.items():
            secrets = () if term.endpoint else tuple(sorted(term.secrets))
            alike.setdefault((term.endpoint, term.network and not term.endpoint, secrets), []).append(place)
        groups = []
        for (endpoint, network, secrets), places in alike.items():
            terms = [self._terms[place] for place in places]
            bench: Bench
            if endpoint:
                from rewards.endpoints.runner import EndpointRunner

                bench = EndpointRunner(terms, costs=self._costs)
            else:
                environment = gather(secrets)
                bench = Sandbox(
                    terms, limits=self._limits, sys_path=self._sys_path, environment=environment, network=network
                )
            groups.append(Group(bench, places, bool(secrets)))
        return groups

    def _at_once(self, calls: Mapping[int, Callable[[], Any]]) -> dict[int, Any]:
        """Results by group. The first group works in the caller's thread: a sandbox belongs to the thread that started it."""
        futures = {i: self._threads[i - 1].submit(call) for i, call in calls.items() if i}
        try:
            results = {i: call() for i, call in calls.items() if not i}
        finally:
            wait(futures.values())
        return results | {i: future.result() for i, future in futures.items()}
