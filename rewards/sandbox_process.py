"""One scoring process as its parent sees it: start, hand over a batch, watch, kill.

Neighbours: `sandbox` decides what a kill means for the batch; `sandbox_child` is the other side.
Invariants: every wait has a limit; a kill takes the whole process group; the parent's clock alone decides what is too long;
the child inherits neither environment nor files beyond its three descriptors.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import mmap
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rewards.errors import RewardError
from rewards.registry import ResolvedTerm
from rewards.sandbox_wire import FINISHED, IDLE, LENGTH, PROGRESS_BYTES, Outcome

START_LIMIT_S = 20.0  # 0.1 s when the machine is quiet; a loaded one with cold files needs seconds
REAP_LIMIT_S = 5.0  # a killed process that is not gone by then waits for the disk; it is left to init
TICK_S = 0.05  # how late a limit may be noticed
LAST_WORDS_BYTES = 2000  # of what a process wrote before it failed to start
MAX_LINE_BYTES = 1 << 24  # of one answer; reasons are cut far below this
ENVIRONMENT = {
    "PATH": os.defpath,
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",  # the same order of sets in every process
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",  # its threads' buffers count against the memory limit
}
INHERITED = ("LD_LIBRARY_PATH",)  # some interpreters do not start without it
log = logging.getLogger(__name__)


class BrokenChannel(Exception):
    """What came through the channel is not an answer."""


@dataclass(slots=True)
class BatchEnd:
    """How far a process came with a batch.

    outcomes: by position; alive: whether it can take another batch; began: whether any unit has run; blamed: position of the
    unit that hung or ended the process, None when it may have been any; reason: what happened.
    """

    outcomes: dict[int, Outcome] = field(default_factory=dict)
    alive: bool = False
    began: bool = False
    blamed: int | None = None
    reason: str = ""


def _is_outcome(entry: Any, count: int) -> bool:
    """Foreign code shares the writing process, so nothing is taken for granted."""
    if not isinstance(entry, list) or len(entry) != 4:
        return False
    position, score, reason, out_of_memory = entry
    scored = isinstance(score, float) and math.isfinite(score)
    return (
        isinstance(position, int)
        and 0 <= position < count
        and isinstance(reason, str)
        and isinstance(out_of_memory, bool)
        and (scored or (score is None and bool(reason)))
    )


class ScoringProcess:
    """Starts on construction. Raises RewardError when it does not become ready; use it from one thread."""

    def __init__(
        self, terms: Sequence[ResolvedTerm], memory_mb: int, sys_path: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        self.units_done = 0
        progress = os.memfd_create("reward-progress")
        os.ftruncate(progress, PROGRESS_BYTES)
        self._running = memoryview(mmap.mmap(progress, PROGRESS_BYTES)).cast("q")
        self._running[0] = IDLE
        child_requests, self._requests = os.pipe()
        self._answers, child_answers = os.pipe()
        descriptors = (child_requests, child_answers, progress)
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
        self._get_ready(terms, memory_mb, sys_path)

    def _get_ready(self, terms: Sequence[ResolvedTerm], memory_mb: int, sys_path: Sequence[str]) -> None:
        setup = {
            "terms": [dataclasses.asdict(term) for term in terms],
            "memory_mb": memory_mb,
            "sys_path": list(sys_path),
        }
        body = json.dumps(setup).encode()
        try:
            problem = self._first_answer(LENGTH.pack(len(body)) + body)
        except BrokenChannel as error:
            problem = f"it {error}"
        if problem:
            self.kill()
            names = ", ".join(term.name for term in terms)
            raise RewardError(f"the scoring process for {names} did not start: {problem} (memory limit {memory_mb} MB)")

    def _first_answer(self, setup: bytes) -> str:
        """What the process says to its set-up, or what kept it from saying anything; empty when it is ready."""
        deadline = time.monotonic() + START_LIMIT_S
        if self._send(setup, deadline):
            while time.monotonic() < deadline:
                gone = self._is_gone()
                if answers := self._receive(0.0 if gone else TICK_S):
                    return str(answers[0])
                if gone:
                    break
        if self._is_gone():
            return f"{self._manner_of_death()}; {self._last_words()}"
        return f"not ready within {START_LIMIT_S:.0f} s"

    def run(self, request: bytes, count: int, timeout_s: float) -> BatchEnd:
        """Scores one packed batch of `count` units; a unit that runs for timeout_s, or dies, ends the process."""
        end = BatchEnd()
        self._running[0] = IDLE
        if self._send(request, time.monotonic() + START_LIMIT_S):
            try:
                self._watch(end, count, timeout_s)
            except BrokenChannel as error:
                log.warning("scoring process %d %s and is killed", self.pid, error)
                end.blamed, end.reason = None, str(error)
        end.began = self._running[0] != IDLE
        end.alive = len(end.outcomes) == count and self._running[0] == FINISHED
        self.units_done += len(end.outcomes)
        if not end.alive:
            self.kill()
        return end

    def _watch(self, end: BatchEnd, count: int, timeout_s: float) -> None:
        """Collects outcomes until all are there, the process is gone or a unit takes too long."""
        running, since = IDLE, time.monotonic()
        while len(end.outcomes) < count:
            gone = self._is_gone()  # asked before reading, so that nothing written before the end is missed
            for entry in self._receive(0.0 if gone else min(TICK_S, timeout_s / 4)):
                if not _is_outcome(entry, count):
                    raise BrokenChannel("wrote what is not an outcome")
                end.outcomes[entry[0]] = Outcome(*entry[1:])
            if self._running[0] != running:
                running, since = self._running[0], time.monotonic()
            if len(end.outcomes) == count:
                return
            if gone:
                end.reason = f"ended its process ({self._manner_of_death()})"
            elif time.monotonic() - since > (timeout_s if running >= 0 else START_LIMIT_S):
                end.reason = f"timed out after {timeout_s:.1f} s and was killed"
            if end.reason:
                end.blamed = running if running >= 0 and running not in end.outcomes else None
                return

    def _send(self, data: bytes, deadline: float) -> bool:
        """Writes all of it; False when the process is gone or does not read."""
        poller = select.poll()
        poller.register(self._requests, select.POLLOUT)
        left = memoryview(data)
        while left:
            if time.monotonic() > deadline or self._is_gone():
                return False
            if poller.poll(TICK_S * 1000):
                try:
                    left = left[os.write(self._requests, left) :]
                except (BrokenPipeError, BlockingIOError):
                    continue
        return True

    def _receive(self, wait_s: float) -> list[Any]:
        """Whole answers that have arrived, after waiting at most wait_s for the first. Raises BrokenChannel."""
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
        try:
            answers = [json.loads(line) for line in lines]
        except ValueError as error:
            raise BrokenChannel("wrote what is not JSON") from error
        return [entry for answer in answers if isinstance(answer, list) for entry in answer]

    def _is_gone(self) -> bool:
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
