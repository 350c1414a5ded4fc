"""The process that runs reward functions: `python -m rewards.sandbox_child REQUESTS ANSWERS PROGRESS PARENT`.

Neighbours: `sandbox` starts it with three file descriptors and its own process id, and kills it at any time.
Invariants: whatever a function raises becomes a reason; every call gets a sample of its own, so that no function sees what
another one did to it; standard output and error lead nowhere; the process dies with its parent.
"""

from __future__ import annotations

import ctypes
import json
import math
import mmap
import numbers
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rewards.errors import RewardError
from rewards.registry import ResolvedTerm, load
from rewards.sample_wire import decode_sample
from rewards.sandbox_wire import BROKEN, FINISHED, FLUSH_S, LEAVING, LENGTH, MAX_REASON, Unit, unpack_batch

PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Attempt:
    """Runs foreign code and keeps what it raised, whatever that is: here even SystemExit is only a failed score."""

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def __enter__(self) -> Attempt:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is not None:
            self.error = error.with_traceback(None)  # lets go of the frames and what they hold
        return True


def reason_of(error: BaseException) -> str:
    """`raised ValueError: text`, cut to length; the text itself may fail."""
    text = "(its message can't be read)"
    with Attempt():
        text = str(error)[:MAX_REASON]
    kind = type(error).__name__
    return f"raised {kind}: {text}" if text else f"raised {kind}"


def checked(value: Any) -> tuple[float | None, str]:
    """The score of a function's return value, or why it is none."""
    if value is None:
        return None, "returned None"
    if not isinstance(value, numbers.Real):
        return None, f"returned {type(value).__name__}, not a number"
    score = float(value)
    return (score, "") if math.isfinite(score) else (None, f"returned {score}, not a finite number")


class LoadedTerms:
    """The loaded functions, applied to units."""

    def __init__(self, terms: list[ResolvedTerm], memory_mb: int) -> None:
        self.functions: list[tuple[str, Callable[..., Any], dict[str, Any]]] = [
            (term.name, load(term).call, term.parameters) for term in terms
        ]
        self.memory_mb = memory_mb

    def score(self, line: bytes, unit: Unit) -> tuple[float | None, str, bool]:
        """(score, reason, out of memory)."""
        name, call, parameters = self.functions[unit.term]
        score, reason = None, ""
        with Attempt() as attempt:
            score, reason = checked(call(decode_sample(line), **parameters))
        error = attempt.error
        if isinstance(error, MemoryError):
            return None, f"{name} ran out of memory (limit {self.memory_mb} MB)", True
        if error is not None:
            score, reason = None, reason_of(error)
        return score, f"{name} {reason}" if reason else "", False


class Ends:
    """The child's ends of the pipes and of the progress cell."""

    def __init__(self, requests: int, answers: int, progress: int) -> None:
        self.requests = os.fdopen(requests, "rb")
        self.answers = answers
        self.running = memoryview(mmap.mmap(progress, 0)).cast("q")
        self.waiting: list[Any] = []
        self.flushed = 0.0

    def read(self) -> bytes | None:
        """The next request, None when the parent has closed its end."""
        head = self.requests.read(LENGTH.size)
        return self.requests.read(LENGTH.unpack(head)[0]) if len(head) == LENGTH.size else None

    def answer(self, entry: str | tuple[int, float | None, str, bool]) -> None:
        """Sends it within FLUSH_S of work; `flush` sends at once."""
        self.waiting.append(entry)
        if time.monotonic() - self.flushed > FLUSH_S:
            self.flush()

    def flush(self) -> None:
        line = memoryview(json.dumps(self.waiting).encode() + b"\n")
        try:
            while line:
                line = line[os.write(self.answers, line) :]
        except OSError:  # some function closed the channel
            self.running[0] = BROKEN
            os._exit(1)
        self.waiting.clear()
        self.flushed = time.monotonic()


def limit_process(memory_mb: int, parent: int) -> None:
    """Memory limit, no core files, death with the parent."""
    limit = memory_mb * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        sys.exit(1)


def start(ends: Ends, parent: int) -> LoadedTerms | None:
    """Reads the set-up, loads the functions, says so. None when there is nothing to do."""
    request = ends.read()
    if request is None:
        return None
    setup = json.loads(request)
    sys.path[:] = setup["sys_path"]
    limit_process(setup["memory_mb"], parent)
    problem, scorer = "", None
    with Attempt() as attempt:
        scorer = LoadedTerms([ResolvedTerm(**term) for term in setup["terms"]], setup["memory_mb"])
    if attempt.error is not None:
        known = isinstance(attempt.error, RewardError)
        problem = str(attempt.error) if known else f"importing a reward's module {reason_of(attempt.error)}"
    ends.answer(problem)
    ends.flush()
    return None if problem else scorer


def serve(ends: Ends, scorer: LoadedTerms) -> None:
    """Scores batches until the parent closes its end."""
    while (request := ends.read()) is not None:
        lines, units = unpack_batch(request)
        ends.flushed = time.monotonic()
        for position, unit in enumerate(units):
            ends.running[0] = position
            score, reason, out_of_memory = scorer.score(lines[unit.sample], unit)
            ends.answer((position, score, reason, out_of_memory))
            if out_of_memory:
                ends.flush()
                ends.running[0] = LEAVING
                return
        ends.running[0] = FINISHED
        ends.flush()


def main() -> None:
    requests, answers, progress, parent = (int(text) for text in sys.argv[1:5])
    ends = Ends(requests, answers, progress)
    scorer = start(ends, parent)
    if scorer is not None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        serve(ends, scorer)
    os._exit(0)  # at once, whatever threads and exit handlers a reward's module has left


if __name__ == "__main__":
    main()
