"""Plain functions on a whole block of samples: the fast way through a scoring process.

Neighbours: `sandbox_child` comes here for requests that carry a block; `sandbox_calls` for all others.
Invariants: every call gets a sample of its own. Samples in a row that ask the same question share its dict, which is compared with
the original before any of their scores counts: where a function has changed it, they are scored again, each with its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rewards.sample_block import Block, give_question
from rewards.sandbox_wire import SCORED

if TYPE_CHECKING:
    from rewards.messages import Sample
    from rewards.sandbox_calls import Caller

INFINITY = float("inf")


def run_block(caller: Caller, block: Block, terms: Sequence[int]) -> None:
    """Unit i * len(terms) + k is sample i for terms[k]. Raises OutOfMemory when a function used up the memory."""
    for k, term in enumerate(terms):
        samples = block.bare_samples()
        for start, stop, place in block.runs():
            question = block.question(place)
            positions = range(start * len(terms) + k, stop * len(terms) + k, len(terms))
            for sample in samples[start:stop]:
                give_question(sample, question)
            run = _Run(caller, term, positions)
            run.score(samples[start:stop])
            if not _intact(block, question, place):
                run = _Run(caller, term, positions)
                run.score(map(block.sample, range(start, stop)))
            run.count()


def _intact(block: Block, question: dict[str, Any], place: int) -> bool:
    try:
        return block.is_intact(question, place)
    except Exception:  # noqa: BLE001  a foreign object that was put into it
        return False


class _Run:
    """Calls of one function in a row; nothing counts before `count`."""

    def __init__(self, caller: Caller, term: int, positions: Sequence[int]) -> None:
        self._caller = caller
        self._term = term
        self._positions = positions
        self._plain: list[int] = []
        self._returned: list[tuple[int, Any]] = []
        self._raised: list[tuple[int, BaseException]] = []

    def score(self, samples: Any) -> None:
        caller, plain = self._caller, self._plain
        board, alarms, clock = caller.board, caller.alarms, time.perf_counter
        cells, scores, seconds = board.cells, board.scores, board.seconds
        call: Callable[[Sample], Any] = caller.terms[self._term].call
        before = clock()
        for position, sample in zip(self._positions, samples, strict=True):
            cells[0] = position
            try:
                value = call(sample)
            except BaseException as error:  # noqa: BLE001  foreign code: even SystemExit is only a failed score
                now = clock()
                if isinstance(error, MemoryError):
                    caller.failed(position, self._term, error)
                self._raised.append((position, error.with_traceback(None)))
            else:
                now = clock()
                if type(value) is float and -INFINITY < value < INFINITY:
                    scores[position] = value
                    plain.append(position)
                else:
                    self._returned.append((position, value))
            seconds[position] = now - before
            before = now
            if alarms.touched:
                alarms.undo()

    def count(self) -> None:
        """Notes what came of the calls."""
        status, cells = self._caller.board.status, self._caller.board.cells
        for position in self._plain:
            status[position] = SCORED
        for position, value in self._returned:
            cells[0] = position
            self._caller.settle(position, self._term, value)
        for position, error in self._raised:
            cells[0] = position
            self._caller.failed(position, self._term, error)
