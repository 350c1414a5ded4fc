"""Endpoint rewards for callers that don't live in an event loop: lines in, outcomes out.

Neighbours: the reward service calls it beside the sandbox, in one process for a whole run, so that queues, rates and budgets hold
for the run; `judge`, `remote` and installed ones do the work. Invariants: one outcome a unit, in order; whatever an endpoint raises
or takes too long over is a reason; secrets are struck out of every reason and note.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import CancelledError
from pathlib import Path

import msgspec

from rewards.endpoints.base import MAX_NOTES, SECRET, Billed, Endpoint, clean
from rewards.endpoints.ledger import Cost, CostLedger
from rewards.errors import RewardError
from rewards.messages import Sample
from rewards.registry import ResolvedTerm, load
from rewards.sample_wire import decode_sample
from rewards.sandbox_wire import MAX_REASON, Outcome, Unit
from rewards.secrets import gather, redact

ALLOWANCE_S = 10.0  # beside what an endpoint says it may take: for a busy machine
CLOSE_S = 10.0
log = logging.getLogger(__name__)


def needed_secrets(term: ResolvedTerm) -> tuple[str, ...]:
    """Names of the secrets a term needs: those its function declares, and the one its parameter `secret` names."""
    named = term.parameters.get(SECRET) if term.endpoint else ""
    return (*term.secrets, named) if named else term.secrets


class EndpointRunner:
    """Scores with `terms`, which are endpoint rewards. Terms of the same version share one endpoint with its queue and rates.

    costs: JSONL file for the cost ledger (None: in memory). Use from any thread, from several at once.
    """

    def __init__(self, terms: Sequence[ResolvedTerm], *, costs: Path | None = None) -> None:
        """Raises RewardError for a term that is no endpoint reward."""
        strangers = [term.name for term in terms if not term.endpoint]
        if strangers:
            raise RewardError(f"reward {strangers[0]!r} asks no server; score it in a sandbox")
        self.terms = tuple(terms)
        self._costs = costs
        self._endpoints: dict[str, Endpoint] = {}
        self._ledgers: dict[str, CostLedger] = {}
        self._busy: Counter[str] = Counter()  # samples under way, by term version
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Looks up secrets and makes the endpoints; connects to none. Raises RewardError."""
        if self._loop is not None:
            return
        values = [gather(needed_secrets(term)) for term in self.terms]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="endpoint rewards", daemon=True)
        self._thread.start()
        made = asyncio.run_coroutine_threadsafe(self._make(values), self._loop)
        problem = made.exception()
        if problem is not None:
            self.close()
            if isinstance(problem, RewardError):
                raise problem
            raise RewardError(
                f"an endpoint reward can't be made: {type(problem).__name__}: {redact(str(problem))}"
            ) from problem

    def close(self) -> None:
        """Gives up what is under way. May be called twice."""
        loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is None or thread is None:
            return
        try:
            asyncio.run_coroutine_threadsafe(self._unmake(), loop).result(CLOSE_S)
        except TimeoutError:
            log.warning("an endpoint reward did not end within %.0f s; its thread is left behind", CLOSE_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(CLOSE_S)
        if not thread.is_alive():
            loop.close()

    def __enter__(self) -> EndpointRunner:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def limit_s(self, samples: int) -> float:
        """Longest that scoring this many with every term may take, on top of what is under way now, in seconds."""
        limits = [one.limit_s(samples + self._busy[version]) for version, one in self._endpoints.items()]
        return max(limits, default=0.0) + ALLOWANCE_S

    def costs(self) -> dict[str, Cost]:
        """What the terms have cost so far, by name; terms that cost nothing are left out."""
        return {name: ledger.total for name, ledger in self._ledgers.items()}

    def score(self, lines: Sequence[bytes], units: Sequence[Unit]) -> list[Outcome]:
        """An outcome for every unit, in order. Raises RewardError when it is not started, or closed meanwhile."""
        if self._loop is None:
            raise RewardError("the endpoint rewards are not running; call start() first")
        try:
            return asyncio.run_coroutine_threadsafe(self._score(lines, units), self._loop).result()
        except CancelledError as error:
            raise RewardError("the endpoint rewards were closed while they were scoring") from error

    async def _score(self, lines: Sequence[bytes], units: Sequence[Unit]) -> list[Outcome]:
        samples = {i: _decoded(lines[i]) for i in {unit.sample for unit in units}}
        outcomes: list[Outcome] = [Outcome(None, "was not scored")] * len(units)
        groups: dict[int, list[int]] = defaultdict(list)
        for position, unit in enumerate(units):
            sample = samples[unit.sample]
            if isinstance(sample, Sample):
                groups[unit.term].append(position)
            else:
                outcomes[position] = Outcome(None, sample)
        scored = await asyncio.gather(
            *(
                self._ask(self.terms[term], [samples[units[i].sample] for i in positions])  # type: ignore[misc]
                for term, positions in groups.items()
            )
        )
        for positions, found in zip(groups.values(), scored, strict=True):
            for position, outcome in zip(positions, found, strict=True):
                outcomes[position] = outcome
        return [_told(outcome, self.terms[unit.term].name) for outcome, unit in zip(outcomes, units, strict=True)]

    async def _ask(self, term: ResolvedTerm, samples: Sequence[Sample]) -> list[Outcome]:
        """One endpoint on its samples, held to its own limit; also an installed one may be wrong about itself."""
        endpoint, busy = self._endpoints[term.version], self._busy
        busy[term.version] += len(samples)
        limit_s = endpoint.limit_s(busy[term.version]) + ALLOWANCE_S
        try:
            (result,) = await asyncio.gather(asyncio.wait_for(endpoint.score(samples), limit_s), return_exceptions=True)
        finally:
            busy[term.version] -= len(samples)
        if isinstance(result, TimeoutError):
            return [Outcome(None, f"did not finish {len(samples)} samples within {limit_s:.0f} s")] * len(samples)
        if isinstance(result, BaseException):
            return [Outcome(None, f"raised {type(result).__name__}: {result}")] * len(samples)
        problem = "" if isinstance(result, list) else f"gave {type(result).__name__}, not a list of outcomes"
        strangers = [] if problem else [item for item in result if not isinstance(item, Outcome)]
        if strangers:
            problem = f"gave a list of {type(strangers[0]).__name__}, not of outcomes"
        if problem:
            return [Outcome(None, problem)] * len(samples)
        if len(result) != len(samples):
            return [Outcome(None, f"gave {len(result)} outcomes for {len(samples)} samples")] * len(samples)
        return result

    async def _make(self, values: Sequence[dict[str, str]]) -> None:
        for term, secrets in zip(self.terms, values, strict=True):
            if term.version in self._endpoints:
                continue
            endpoint = load(term).call(secrets, **term.parameters)
            self._endpoints[term.version] = endpoint
            if isinstance(endpoint, Billed):
                if term.name not in self._ledgers:
                    self._ledgers[term.name] = CostLedger(term.name, self._costs)
                endpoint.ledger = self._ledgers[term.name]

    async def _unmake(self) -> None:
        mine = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not mine]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        endpoints, self._endpoints = list(self._endpoints.values()), {}
        await asyncio.gather(*(endpoint.aclose() for endpoint in endpoints), return_exceptions=True)
        for ledger in self._ledgers.values():
            ledger.close()


def _decoded(line: bytes) -> Sample | str:
    try:
        return decode_sample(line)
    except (msgspec.DecodeError, ValueError) as error:
        return f"got a sample that can't be read: {error}"


def _told(outcome: Outcome, name: str) -> Outcome:
    """As others see it: named, of a length that can be kept, without secrets."""
    score, reason = outcome.score, outcome.reason
    if score is not None and not math.isfinite(score):
        score, reason = None, f"gave the score {score}, not a finite number"
    if score is None:
        reason = f"{name} {redact(reason) or 'gave no score'}"[:MAX_REASON]
    return Outcome(
        score,
        reason if score is None else "",
        False,
        outcome.parts,
        clean(redact(outcome.notes), MAX_NOTES),
        outcome.seconds,
    )
