"""`async` reward functions: many samples at once in one event loop, each within its own time limit.

Neighbours: `sandbox_calls` hands over a request's units; the parent watches from outside, as for other functions.
Invariants: while a function holds the loop the board names its unit, so that one that blocks is killed and blamed alone; a
function that won't be cancelled is left behind and its process ends after the request.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Generator, Sequence
from typing import TYPE_CHECKING, Any

from rewards.sample_wire import decode_sample
from rewards.sandbox_returns import NoScore
from rewards.sandbox_wire import LOOP, TAKEN, Board

if TYPE_CHECKING:
    from rewards.sandbox_calls import Caller

AT_ONCE = 64  # units under way; what a server that is asked can be expected to take
BEAT_S = 0.02
CANCEL_S = 0.1  # for a cancelled function to clean up
Job = tuple[int, int, bytes]  # position, term, line


class Loop:
    """An event loop that lives as long as its process, so that functions may keep clients."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._board = caller.board
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda *_: None)  # what tasks left behind have to say
        asyncio.set_event_loop(self._loop)
        self.left_behind = False

    def run(self, jobs: Sequence[Job]) -> None:
        """Scores the units of all jobs. Raises OutOfMemory."""
        self._loop.run_until_complete(self._all(jobs))

    async def _all(self, jobs: Sequence[Job]) -> None:
        heart = asyncio.create_task(self._beat())
        waiting = iter(jobs)
        workers = [asyncio.create_task(self._work(waiting)) for _ in range(min(AT_ONCE, len(jobs)))]
        try:
            await asyncio.gather(*workers)
        finally:
            heart.cancel()
            if self._caller.alarms.touched:
                self._caller.alarms.undo()

    async def _beat(self) -> None:
        while True:
            self._board.cells[Board.BEAT] += 1
            await asyncio.sleep(BEAT_S)

    async def _work(self, waiting: Any) -> None:
        for position, term, line in waiting:
            await self._score(position, term, line)
            self._board.cells[Board.RUNNING] = LOOP

    async def _score(self, position: int, term: int, line: bytes) -> None:
        caller, board = self._caller, self._board
        board.status[position] = TAKEN
        board.cells[Board.RUNNING] = position
        limit_s = caller.limits.timeout_s
        before = time.perf_counter()
        task: asyncio.Task[Any] | None = None
        try:
            task = asyncio.create_task(self._watched(caller.terms[term].call(decode_sample(line)), position))
            done, _ = await asyncio.wait((task,), timeout=limit_s)
            if not done:
                await self._cancel(task)
                raise NoScore(f"timed out after {limit_s:.1f} s and was cancelled")
            value, error = task.result()
            if error is not None:
                raise error
        except BaseException as error:  # noqa: BLE001  foreign code
            board.seconds[position] = time.perf_counter() - before
            caller.failed(position, term, error)
        else:
            board.seconds[position] = time.perf_counter() - before
            board.cells[Board.RUNNING] = position
            caller.settle(position, term, value)

    async def _cancel(self, task: asyncio.Task[Any]) -> None:
        task.cancel()
        done, _ = await asyncio.wait((task,), timeout=CANCEL_S)
        self.left_behind |= not done

    async def _watched(self, coroutine: Coroutine[Any, Any, Any], position: int) -> tuple[Any, BaseException | None]:
        """What it returned or raised; a SystemExit that left a task would end the loop."""
        try:
            return await _Watched(coroutine, position, self._board.cells), None
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001  foreign code
            return None, error


class _Watched:
    """Awaits a coroutine and says on the board whenever it runs."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], position: int, cells: memoryview) -> None:
        self._coroutine, self._position, self._cells = coroutine, position, cells

    def __await__(self) -> Generator[Any, Any, Any]:
        step, value = self._coroutine.send, None
        while True:
            self._cells[Board.BEAT] += 1
            self._cells[Board.RUNNING] = self._position
            try:
                waited_for = step(value)
            except StopIteration as end:
                return end.value
            finally:
                self._cells[Board.RUNNING] = LOOP
            try:
                value = yield waited_for
                step = self._coroutine.send
            except BaseException as error:  # noqa: BLE001  a cancellation, which the function may handle
                step, value = self._coroutine.throw, error
