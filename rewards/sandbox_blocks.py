"""Plain functions on a whole block of samples: the fast way through a scoring process.

Neighbours: `sandbox_child` comes here for requests that carry a block; `sandbox_calls` for all others.
Invariants: every call gets a sample of its own. Samples in a row that ask the same question share its dict, which is compared with
the original before any of their scores counts: where a function has changed it, they are scored again, each with its own.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterable, Sequence
from math import isfinite
from operator import sub
from typing import TYPE_CHECKING, Any

from rewards.sample_block import Block, give_question
from rewards.sandbox_wire import SCORED, Board

if TYPE_CHECKING:
    from rewards.messages import Sample
    from rewards.sandbox_calls import Caller

PLAIN = {float}


def run_block(caller: Caller, block: Block, terms: Sequence[int]) -> None:
    """Unit i * len(terms) + k is sample i for terms[k]. Raises OutOfMemory when a function used up the memory."""
    step = len(terms)
    for k, term in enumerate(terms):
        samples = block.bare_samples()
        for start, stop, place in block.runs():
            question = block.question(place)
            run = samples[start:stop]
            for sample in run:
                give_question(sample, question)
            positions = range(start * step + k, stop * step + k, step)
            values, seconds = _called(caller, term, positions, run)
            if not _intact(block, question, place):
                values, seconds = _called(caller, term, positions, map(block.sample, range(start, stop)))
            _count(caller, term, positions, values, seconds)


def _intact(block: Block, question: dict[str, Any], place: int) -> bool:
    try:
        return block.is_intact(question, place)
    except Exception:  # noqa: BLE001  a foreign object that was put into it
        return False


class _Raised:
    """Stands for a value where a call raised."""

    def __init__(self, error: BaseException) -> None:
        self.error = error.with_traceback(None)


def _called(
    caller: Caller, term: int, positions: Sequence[int], samples: Iterable[Sample]
) -> tuple[list[Any], list[float]]:
    """What each call returned or raised, and its seconds; nothing counts before `_count`. Raises OutOfMemory."""
    cells, alarms, clock = caller.board.cells, caller.alarms, time.perf_counter
    call: Callable[[Sample], Any] = caller.terms[term].call
    values: list[Any] = []
    times = [clock()]
    for position, sample in zip(positions, samples, strict=True):
        cells[0] = position
        try:
            values.append(call(sample))
        except BaseException as error:  # noqa: BLE001  foreign code: even SystemExit is only a failed score
            if isinstance(error, MemoryError):
                caller.failed(position, term, error)
            values.append(_Raised(error))
        times.append(clock())
        if alarms.touched:
            alarms.undo()
    return values, list(map(sub, times[1:], times))


def _count(caller: Caller, term: int, positions: range, values: list[Any], seconds: list[float]) -> None:
    """Notes what came of calls."""
    board = caller.board
    whole = slice(positions.start, positions.stop, positions.step)
    board.seconds[whole] = array("d", seconds)
    if set(map(type, values)) == PLAIN and all(map(isfinite, values)):
        board.scores[whole] = array("d", values)
        board.status[whole] = bytes((SCORED,)) * len(values)
        return
    for position, value in zip(positions, values, strict=True):
        board.cells[Board.RUNNING] = position
        if type(value) is _Raised:
            caller.failed(position, term, value.error)
        else:
            caller.settle(position, term, value)
