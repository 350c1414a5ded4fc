"""The process that runs reward functions: `python -m rewards.sandbox_child REQUESTS ANSWERS BOARD PARENT`.

Neighbours: `sandbox_process` starts it with three file descriptors and its own process id, and kills it at any time;
`isolation` takes away what functions must not have, before the first of them is imported; `sandbox_calls` calls them.
Invariants: standard output and error lead nowhere; the process dies with its parent.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from array import array

import msgspec

from rewards.errors import RewardError
from rewards.isolation import die_with, enter, limit_resources
from rewards.sample_block import Block
from rewards.sandbox_blocks import run_block
from rewards.sandbox_calls import Alarms, Caller, LoadedTerm, OutOfMemory
from rewards.sandbox_returns import raised
from rewards.sandbox_temporary import keep_temporary_files_in_memory
from rewards.sandbox_wire import (
    BROKEN,
    FINISHED,
    FLUSH_S,
    LEAVING,
    LENGTH,
    LOADING,
    Board,
    Detail,
    Setup,
    unpack_batch,
    unpack_block_request,
)

YOUNG_OBJECTS = 10_000  # before garbage is looked for: above what a request's samples are, since these are no garbage


class Ends:
    """The child's ends of the pipes, and the board."""

    def __init__(self, requests: int, answers: int, board: int) -> None:
        self.requests = os.fdopen(requests, "rb")
        self.answers = answers
        self.board = Board(board)
        os.close(board)
        self._waiting: list[Detail] = []
        self._since = 0.0

    def read(self) -> bytes | None:
        """The next request, None when the parent has closed its end."""
        head = self.requests.read(LENGTH.size)
        return self.requests.read(LENGTH.unpack(head)[0]) if len(head) == LENGTH.size else None

    def tell(self, detail: Detail) -> None:
        """Sends it within FLUSH_S of work; `flush` sends at once."""
        now = time.monotonic()
        if not self._waiting:
            self._since = now
        self._waiting.append(detail)
        if now - self._since > FLUSH_S:
            self.flush()

    def flush(self) -> None:
        if self._waiting:
            self.write(self._waiting)
            self._waiting.clear()

    def write(self, answer: object) -> None:
        line = memoryview(msgspec.json.encode(answer) + b"\n")
        try:
            while line:
                line = line[os.write(self.answers, line) :]
        except OSError:  # some function closed the channel
            self.board.cells[Board.RUNNING] = BROKEN
            os._exit(1)


def start(ends: Ends, parent: int) -> Caller | None:
    """Reads the set-up, gives up what functions must not have, loads them, says so. None when that failed."""
    request = ends.read()
    if request is None:
        return None
    setup = msgspec.msgpack.decode(request, type=Setup)
    cells = ends.board.cells
    terms: list[LoadedTerm] = []
    alarms = Alarms()
    try:
        die_with(parent)
        limit_resources(setup.limits.memory_mb, setup.limits.open_files)
        if setup.filter_program:
            enter(setup.filter_program, setup.landlock)
            keep_temporary_files_in_memory()
        sys.path[:] = setup.sys_path
        for index, term in enumerate(setup.terms):
            cells[Board.BEAT] = index
            cells[Board.RUNNING] = LOADING
            try:
                terms.append(LoadedTerm(term))
            except RewardError:
                raise
            except BaseException as error:  # noqa: BLE001  foreign code runs on import
                raise RewardError(f"importing {term.file} for {term.name} {raised(error)}") from None
    except (RewardError, OSError, ValueError) as error:
        ends.write(str(error))
        return None
    if alarms.touched:
        alarms.undo()
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
    ends.write("")
    return Caller(terms, ends.board, setup.limits, alarms, ends.tell)


def run(caller: Caller, request: bytes) -> None:
    """Raises OutOfMemory when a function used up the memory."""
    blocked = unpack_block_request(request)
    if blocked is None:
        caller.run(*unpack_batch(request))
        return
    block = Block(blocked[0])
    if caller.simple:
        run_block(caller, block, blocked[1])
    else:
        places = array("i", (i for i in range(len(block)) for _ in blocked[1]))
        caller.run(block.lines(), places, blocked[1] * len(block))


def serve(ends: Ends, caller: Caller) -> None:
    """Scores requests until the parent closes its end."""
    cells = ends.board.cells
    while (request := ends.read()) is not None:
        try:
            run(caller, request)
        except OutOfMemory:
            ends.flush()
            cells[Board.RUNNING] = LEAVING
            return
        cells[Board.RUNNING] = FINISHED
        ends.flush()
        ends.write(None)
        if caller.left_behind:
            return


def main() -> None:
    requests, answers, board, parent = (int(text) for text in sys.argv[1:5])
    ends = Ends(requests, answers, board)
    nowhere = os.open(os.devnull, os.O_WRONLY)  # later it may not be allowed
    caller = start(ends, parent)
    if caller is not None:
        os.dup2(nowhere, 2)
        serve(ends, caller)
    os._exit(0)  # at once, whatever threads and exit handlers a reward's module has left


if __name__ == "__main__":
    main()
