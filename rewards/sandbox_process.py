"""One scoring process as its parent sees it: start, hand over a request, watch, kill.

Neighbours: `sandbox` decides what a kill means for the batch; `sandbox_child` is the other side.
Invariants: every wait has a limit; a kill takes the whole process group; the parent's clocks alone decide what is too long; the
child inherits neither environment nor files beyond its three descriptors.
"""

from __future__ import annotations

import fcntl
import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from rewards.errors import RewardError
from rewards.isolation import FULL, chosen, landlock_version
from rewards.isolation_calls import SETTING, filter_program
from rewards.registry import ResolvedTerm
from rewards.sandbox_end import BatchEnd, BrokenChannel, Watch, read_details
from rewards.sandbox_wire import BROKEN, FINISHED, IDLE, LENGTH, LOADING, Board, Detail, Limits, Setup

START_LIMIT_S = 20.0  # for taking a request, and for all of starting but loading functions
REAP_LIMIT_S = 5.0  # a killed process that is not gone by then waits for the disk; it is left to init
TICK_S = 0.05  # how late a limit may be noticed
LAST_WORDS_BYTES = 2000  # of what a process wrote before it failed to start
MAX_LINE_BYTES = 1 << 24  # of one answer; reasons are cut far below this
PIPE_BYTES = 1 << 20
ENVIRONMENT = {
    "PATH": os.defpath,
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",  # the same order of sets in every process
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",  # its threads' buffers count against the memory limit
    "MALLOC_ARENA_MAX": "2",  # as do the heaps of other threads
    "NUMBA_CACHE_LOCATOR_CLASSES": "rewards.sandbox_numba.BesideSource",
}
INHERITED = ("LD_LIBRARY_PATH",)  # some interpreters do not start without it
log = logging.getLogger(__name__)
_warned: set[str] = set()


class ScoringProcess:
    """Starts on construction, which does not wait; `wait` does. Raises RewardError when it can't be started; use it from one
    thread."""

    def __init__(
        self,
        terms: Sequence[ResolvedTerm],
        limits: Limits,
        sys_path: Sequence[str],
        environment: Mapping[str, str],
        network: bool,
    ) -> None:
        isolation = chosen(limits.isolation)
        self.units_done = 0
        self._limits = limits
        board = Board.create()
        self._board = Board(board)
        self._board.clear(0)
        child_requests, self._requests = os.pipe()
        self._answers, child_answers = os.pipe()
        descriptors = (child_requests, child_answers, board)
        self._errors = os.memfd_create("reward-errors")
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "rewards.sandbox_child", *map(str, descriptors), str(os.getpid())],
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                env=ENVIRONMENT
                | inherited
                | dict(environment)
                | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])},
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            for descriptor in (self._requests, self._answers, self._errors):
                os.close(descriptor)
            raise RewardError(f"no scoring process could be started with {sys.executable}: {error}") from error
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        self.pid = self._process.pid
        os.set_blocking(self._requests, False)
        os.set_blocking(self._answers, False)
        self._partial = b""
        self._closed = False
        self._watch = Watch(self.pid, limits)
        self._terms = tuple(terms)
        self._ready = False
        fcntl.fcntl(self._requests, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        try:
            self._unsent = memoryview(self._setup(sys_path, isolation, network))
        except RewardError:
            self.kill()
            raise
        self._send_some()

    def wait(self) -> None:
        """Returns when all functions are loaded. Raises RewardError when that fails or takes too long."""
        if self._ready:
            return
        try:
            problem = self._first_answer()
        except BrokenChannel as error:
            problem = f"it {error}"
        if problem:
            self.kill()
            names = ", ".join(term.name for term in self._terms)
            raise RewardError(
                f"the scoring process for {names} did not start: {problem} (memory limit {self._limits.memory_mb} MB)"
            )
        self._watch.ready()
        self._ready = True

    def _setup(self, sys_path: Sequence[str], isolation: str, network: bool) -> bytes:
        program, landlock = b"", 0
        if isolation == FULL:
            landlock = landlock_version()
            program = filter_program(self.pid, network=network, files_guarded=landlock > 0)
            if not landlock:
                _warn_once(
                    "this kernel has no rules for files (Landlock, version 3 or later): reward functions can read the "
                    "environment of other processes of this user, and can't write to /dev/null"
                )
        else:
            _warn_once(
                f"{SETTING}={isolation}: reward functions run with limits on time and memory alone; they can write files, "
                "start processes and open connections"
            )
        body = msgspec.msgpack.encode(Setup(list(self._terms), list(sys_path), self._limits, program, landlock))
        return LENGTH.pack(len(body)) + body

    def _first_answer(self) -> str:
        """What the process says to its set-up, or what kept it from saying anything; empty when it is ready."""
        cells = self._board.cells
        limit_s, since, last = START_LIMIT_S, time.monotonic(), (IDLE, 0)
        if self._send(self._unsent, since + START_LIMIT_S):
            while time.monotonic() - since < limit_s:
                gone = self.is_gone()
                for line in self._receive(0.0 if gone else TICK_S):
                    try:
                        return msgspec.json.decode(line, type=str)
                    except msgspec.MsgspecError as error:
                        raise BrokenChannel("wrote what is not an answer") from error
                if gone:
                    break
                if (now := (cells[Board.RUNNING], cells[Board.BEAT])) != last:
                    last, since, limit_s = now, time.monotonic(), self._limits.start_s
        if self.is_gone():
            return f"{self._manner_of_death()}; {self._last_words()}"
        if last[0] == LOADING and 0 <= last[1] < len(self._terms):
            term = self._terms[last[1]]
            return f"importing {term.file} for {term.name} took longer than {limit_s:.1f} s"
        return f"not ready within {limit_s:.0f} s"

    def run(self, request: bytes, count: int) -> BatchEnd:
        """Scores one packed request of `count` units; one that goes over a limit, or dies, ends the process."""
        end = BatchEnd()
        self._board.clear(count)
        details: list[Detail] = []
        finished = False
        if self._send(request, time.monotonic() + START_LIMIT_S):
            try:
                finished = self._collect(end, details, count)
            except BrokenChannel as error:
                log.warning("scoring process %d %s and is killed", self.pid, error)
                end.broken = str(error)
        running = self._board.cells[Board.RUNNING]
        end.alive = finished and running == FINISHED and not end.broken
        if not end.alive:
            over_limit = bool(end.reason) and not self.is_gone()
            self.kill()  # so that the board no longer changes
            running = self._board.cells[Board.RUNNING]
            if over_limit and running != BROKEN:  # a channel that broke while the limit was noticed is what counts
                running = self._watch.running
        end.began = running != IDLE
        if running == BROKEN:
            end.broken = "closed its channel"
        if not end.broken:
            end.read(self._board, details, count, running)
        self.units_done += count
        return end

    def _collect(self, end: BatchEnd, details: list[Detail], count: int) -> bool:
        """Takes answers until the process has said that it is through (True), is gone or goes over a limit."""
        self._watch.begin()
        while True:
            gone = self.is_gone()  # asked before reading, so that nothing written before the end is missed
            for line in self._receive(0.0 if gone else self._watch.tick()):
                found = read_details(line, count)
                if found is None:
                    return True
                details += found
            if gone:
                end.reason = f"ended its process ({self._manner_of_death()})"
            else:
                end.reason, end.doubtful = self._watch.over_limit(self._board.cells)
            if end.reason:
                return False

    def _send_some(self) -> None:
        """What fits into the pipe of the set-up, most often all of it."""
        with suppress(BlockingIOError, BrokenPipeError):  # `wait` sends the rest, or says how it died
            self._unsent = self._unsent[os.write(self._requests, self._unsent) :]

    def _send(self, data: bytes | memoryview, deadline: float) -> bool:
        """Writes all of it; False when the process is gone or does not read."""
        poller = select.poll()
        poller.register(self._requests, select.POLLOUT)
        left = memoryview(data)
        while left:
            if time.monotonic() > deadline or self.is_gone():
                return False
            if poller.poll(TICK_S * 1000):
                try:
                    left = left[os.write(self._requests, left) :]
                except (BrokenPipeError, BlockingIOError):
                    continue
        return True

    def _receive(self, wait_s: float) -> list[bytes]:
        """Whole lines that have arrived, after waiting at most wait_s for the first. Raises BrokenChannel."""
        poller = select.poll()
        poller.register(self._answers, select.POLLIN)
        poller.poll(wait_s * 1000)
        chunks = [self._partial]
        while len(chunks) < 64:
            try:
                chunk = os.read(self._answers, 1 << 20)
            except BlockingIOError:
                break
            if not chunk:
                if len(chunks) == 1:
                    time.sleep(min(wait_s, 0.001))  # end of file makes poll return at once; the exit status follows
                break
            chunks.append(chunk)
        *lines, self._partial = b"".join(chunks).split(b"\n")
        if len(self._partial) > MAX_LINE_BYTES:
            raise BrokenChannel("wrote an endless answer")
        return lines

    @property
    def sign(self) -> tuple[int, int, int]:
        """Changes while units are worked on; may be read from any thread."""
        return self.units_done, self._board.cells[Board.RUNNING], self._board.cells[Board.BEAT]

    def is_gone(self) -> bool:
        return self._process.poll() is not None

    def _manner_of_death(self) -> str:
        code = self._process.returncode
        if code is None:
            return "closed its channel"
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return f"exit status {code}"

    def _last_words(self) -> str:
        size = os.fstat(self._errors).st_size
        text = (
            os.pread(self._errors, LAST_WORDS_BYTES, max(0, size - LAST_WORDS_BYTES)).decode(errors="replace").strip()
        )
        return f"it wrote: {text}" if text else "it wrote nothing"

    def _kill_group(self) -> None:
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return  # nobody is left in the group

    def kill(self) -> None:
        """Ends the process and everything it started in its group. May be called twice."""
        if self._closed:
            return
        self._closed = True
        self._kill_group()
        try:
            self._process.wait(REAP_LIMIT_S)
        except subprocess.TimeoutExpired:
            log.warning("scoring process %d is killed but not gone after %.0f s", self.pid, REAP_LIMIT_S)
        for descriptor in (self._requests, self._answers, self._errors):
            os.close(descriptor)


def _warn_once(text: str) -> None:
    if text not in _warned:
        _warned.add(text)
        log.warning("%s", text)
