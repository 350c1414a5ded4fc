"""The loaded reward functions of a scoring process, called on one request's units.

Neighbours: `sandbox_child` reads requests and hands them here, `sandbox_returns` reads return values, `sandbox_loop` runs
`async` functions.
Invariants: every call gets samples of its own, so that no function sees what another did to one; every exception becomes a
reason; the board says at any moment which units are being worked on; functions that take many samples run after the others.
"""

from __future__ import annotations

import copy
import functools
import inspect
import signal
import time
from array import array
from collections.abc import Callable, Sequence
from typing import Any

from rewards.registry import ResolvedTerm, load
from rewards.sample_wire import decode_sample
from rewards.sandbox_returns import NoScore, raised, returned
from rewards.sandbox_wire import GROUP, OPEN, SCORED, TAKEN, TOLD, Board, Detail, Limits

INFINITY = float("inf")


class OutOfMemory(Exception):
    """A function used up the memory; the process is to end."""


class LoadedTerm:
    """A function with its parameters. many: it takes a list of samples; awaited: it is `async`.

    A module may have a `prepare_scoring()` for what would count as the first call's time: it is called on loading.
    """

    def __init__(self, term: ResolvedTerm) -> None:
        function = load(term)
        self.name = term.name
        self.batch = function.batch
        self.many = function.batch > 0
        self.awaited = inspect.iscoroutinefunction(function.call)
        self.call = _with(function.call, term.parameters)
        prepare = function.call.__globals__.get("prepare_scoring")
        if callable(prepare):
            prepare()


def _with(call: Callable[..., Any], parameters: dict[str, Any]) -> Callable[[Any], Any]:
    """The call with parameters, which it may not change for later calls."""
    if not parameters:
        return call
    if any(isinstance(value, list | dict) for value in parameters.values()):
        return lambda samples: call(samples, **copy.deepcopy(parameters))
    return functools.partial(call, **parameters)


class Alarms:
    """Notices when a function sets a timer or a signal handler, and undoes it after the call."""

    def __init__(self) -> None:
        self.touched = False
        self._handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
        self._signal, self._setitimer = signal.signal, signal.setitimer
        for name in ("alarm", "setitimer", "signal"):
            setattr(signal, name, self._noticed(getattr(signal, name)))

    def _noticed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any) -> Any:
            self.touched = True
            return function(*args)

        return call

    def undo(self) -> None:
        for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
            self._setitimer(timer, 0.0)
        for number, handler in self._handlers.items():
            if handler is not None and signal.getsignal(number) is not handler:
                self._signal(number, handler)
        self.touched = False


class Caller:
    """Calls functions for requests; what is no plain score goes to `tell`."""

    def __init__(
        self,
        terms: Sequence[LoadedTerm],
        board: Board,
        limits: Limits,
        alarms: Alarms,
        tell: Callable[[Detail], None],
    ) -> None:
        self.terms = tuple(terms)
        self.board = board
        self.limits = limits
        self.tell = tell
        self.alarms = alarms
        self.simple = not any(term.many or term.awaited for term in terms)
        self._loop: Any = None

    @property
    def left_behind(self) -> bool:
        """Whether a function that won't be cancelled is still under way."""
        return self._loop is not None and self._loop.left_behind

    def run(self, lines: list[bytes], places: array[int], terms: array[int]) -> None:
        """All units of a request: unit i is line places[i] for terms[i], inverted where it is to run alone.

        Raises OutOfMemory when a function used up the memory.
        """
        if self.simple:
            self._one_by_one(range(len(places)), lines, places, [max(term, ~term) for term in terms])
            return
        single: list[int] = []
        many: dict[int, list[int]] = {}
        awaited: list[int] = []
        for position, term in enumerate(terms):
            loaded = self.terms[max(term, ~term)]
            if loaded.awaited:
                awaited.append(position)
            elif loaded.many and term >= 0:
                many.setdefault(term, []).append(position)
            else:
                single.append(position)
        plain = [max(term, ~term) for term in terms]
        self._one_by_one(single, lines, places, plain)
        for term, positions in many.items():
            size = self.terms[term].batch
            for start in range(0, len(positions), size):
                self._together(positions[start : start + size], lines, places, plain)
        if awaited:
            self._awaiting(awaited, lines, places, terms)

    def _one_by_one(
        self, positions: Sequence[int], lines: list[bytes], places: Sequence[int], terms: Sequence[int]
    ) -> None:
        cells, scores, seconds, status = self.board.cells, self.board.scores, self.board.seconds, self.board.status
        calls = [term.call if not term.many else _unwrapped(term.call) for term in self.terms]
        alarms, clock, decode = self.alarms, time.perf_counter, decode_sample
        places_here = [places[position] for position in positions]
        calls_here = [calls[terms[position]] for position in positions]
        before = clock()
        for position, line, call in zip(positions, map(lines.__getitem__, places_here), calls_here, strict=True):
            cells[0] = position
            try:
                value = call(decode(line))
            except BaseException as error:  # noqa: BLE001  foreign code: even SystemExit is only a failed score
                now = clock()
                seconds[position] = now - before
                self.failed(position, terms[position], error)
            else:
                now = clock()
                seconds[position] = now - before
                if type(value) is float and -INFINITY < value < INFINITY:
                    scores[position] = value
                    status[position] = SCORED
                else:
                    self.settle(position, terms[position], value)
            value = None
            before = now
            if alarms.touched:
                alarms.undo()

    def _together(self, positions: list[int], lines: list[bytes], places: Sequence[int], terms: Sequence[int]) -> None:
        """One call for many samples; where it fails, one call for each."""
        board, term = self.board, self.terms[terms[positions[0]]]
        for position in positions:
            board.status[position] = TAKEN
        board.cells[Board.RUNNING] = GROUP
        before = time.perf_counter()
        values: Any = None
        try:
            values = term.call([decode_sample(lines[places[position]]) for position in positions])
            values = list(values) if isinstance(values, list | tuple) and len(values) == len(positions) else None
        except MemoryError as error:
            if len(positions) > 1:  # the parent has them run one by one
                raise OutOfMemory from error
        except BaseException:  # noqa: BLE001  foreign code; called again below, one by one, what it raises is kept
            values = None
        if self.alarms.touched:
            self.alarms.undo()
        for position in positions:
            board.status[position] = OPEN
        if values is None:
            self._one_by_one(positions, lines, places, terms)
            return
        each = (time.perf_counter() - before) / len(positions)
        for position, value in zip(positions, values, strict=True):
            board.cells[Board.RUNNING] = position
            board.seconds[position] = each
            self.settle(position, terms[position], value)

    def _awaiting(self, positions: list[int], lines: list[bytes], places: Sequence[int], terms: Sequence[int]) -> None:
        """`async` functions: those that are to run alone first, then all others together."""
        if self._loop is None:
            from rewards.sandbox_loop import Loop  # takes 60 ms, which only such functions have to pay

            self._loop = Loop(self)
        jobs = [
            (position, max(terms[position], ~terms[position]), lines[places[position]], terms[position] < 0)
            for position in positions
        ]
        for job in jobs:
            if job[3]:
                self._loop.run([job[:3]])
        self._loop.run([job[:3] for job in jobs if not job[3]])

    def settle(self, position: int, term: int, value: Any) -> None:
        """Notes what a call returned."""
        if type(value) is float and -INFINITY < value < INFINITY:
            self.board.scores[position] = value
            self.board.status[position] = SCORED
            return
        found = returned(value)
        if found.score is not None and not found.parts and not found.notes:
            self.board.scores[position] = found.score
            self.board.status[position] = SCORED
            return
        reason = f"{self.terms[term].name} {found.reason}" if found.reason else ""
        self.tell(Detail(position, found.score, reason, False, dict(found.parts), found.notes))
        self.board.status[position] = TOLD

    def failed(self, position: int, term: int, error: BaseException) -> None:
        """Notes what a call raised. Raises OutOfMemory."""
        name = self.terms[term].name
        if isinstance(error, MemoryError):
            limit = f"{name} ran out of memory (limit {self.limits.memory_mb} MB)"
            self.tell(Detail(position, None, limit, True))
            raise OutOfMemory from None
        self.tell(Detail(position, None, f"{name} {raised(error.with_traceback(None))}"))
        self.board.status[position] = TOLD


def _unwrapped(call: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A function of many samples, called for one."""

    def one(sample: Any) -> Any:
        values = call([sample])
        if not isinstance(values, list | tuple):
            raise NoScore(f"returned {type(values).__name__} for a list of samples, not a list")
        if len(values) != 1:
            raise NoScore(f"returned {len(values)} scores for 1 sample")
        return values[0]

    return one
