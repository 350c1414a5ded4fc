"""Server processes of a run: started in a group of their own, watched, started again when they die, ended with everything they began.

Neighbours: `embedded.py` says which servers; `guardian.py` ends them when this process can't do it any more.
Invariants: a server's address never changes, also when it is started again; its output is in its log file; `stop` returns when no
process of its group is left.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from orchestrator import guardian
from orchestrator.errors import MgrdError
from orchestrator.restarts import RestartPolicy

HOST = "127.0.0.1"
PORTS = range(
    20_000, 32_000
)  # below the range the kernel hands to clients: nobody is given one of these by chance while a server starts
STOP_TIMEOUT_S = 8.0
MAX_RESTARTS = 5  # a server that dies more often than this is broken, and starting it again hides why
WATCH_S = 0.2
CHECK_S = 2.0  # between questions to a server whose silence is limited, and between looks at its family

log = logging.getLogger(__name__)


class ServiceError(MgrdError):
    """A server of the run does not start, does not answer, or does not stay up; names its log."""


def claim_port(wanted: int = 0) -> int:
    """`wanted` when it is free, any free one for 0. Raises ServiceError when the wanted one is taken."""
    if wanted:
        if not _is_free(wanted):
            raise ServiceError(
                f"port {wanted} on {HOST} is in use by another process: choose another port, or 0 for any free one"
            )
        return wanted
    for port in random.SystemRandom().sample(PORTS, 200):  # not the run's seed: two runs of one seed may start at once
        if _is_free(port):
            return port
    raise ServiceError(f"no free port found on {HOST} between {PORTS.start} and {PORTS.stop}: end what listens there")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


class Guardian:
    """The process that cleans up if this one is killed; see `guardian.py`. keep_open: descriptors it holds until it ends, of a lock that
    nobody else may take before everything is cleaned up."""

    def __init__(self, log_file: Path, keep_open: Sequence[int] = ()) -> None:
        argv = [sys.executable, "-I", "-S", guardian.__file__, str(os.getpid())]
        with log_file.open("ab") as out:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out,
                start_new_session=True,
                bufsize=0,
                cwd="/",
                pass_fds=keep_open,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def watch(self, pid: int) -> None:
        """Tell it of a process now, without waiting for its next look."""
        self._say(f"{pid}\n")

    def dismiss(self) -> None:
        self._say("done\n")
        self._process.communicate(timeout=STOP_TIMEOUT_S)

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode())
        except BrokenPipeError:
            log.error("the guardian process is gone: if this run is killed now, its servers stay behind")


class ServiceProcess:
    """One server, kept running at one address. `answers` asks it, quickly, whether it serves; it may not raise.

    launcher: the process started here only waits for one that serves; when that one has ended, nothing is left worth waiting for.
    policy: when it is started again; default: MAX_RESTARTS times in all. hang_s: one that has answered and then is silent for so
    long is killed and started again; 0: it is not asked, inf: it is asked and left alone. family: its processes leave its group, so
    its descendants are followed and ended with it.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        log_file: Path,
        answers: Callable[[], bool],
        *,
        environment: Mapping[str, str],
        watch: Callable[[int], None],
        launcher: bool = False,
        policy: RestartPolicy | None = None,
        hang_s: float = 0.0,
        family: bool = False,
    ) -> None:
        self.name = name
        self.log_file = log_file
        self.restarts = 0
        self.since = time.time()
        self._policy = policy or RestartPolicy(most=MAX_RESTARTS)
        self._deaths: list[float] = []
        self._hang_s = hang_s
        self._answered_at: float | None = None
        self.answering = False  # at the last look, for a server whose silence is limited
        self._family: guardian.Processes | None = {} if family else None
        self._argv = list(argv)
        self._answers = answers
        self._environment = dict(environment)
        self._watch = watch
        self._launcher = launcher
        self._stopping = threading.Event()
        self._process = self._launch()
        self._failed = ""
        self._keeper = threading.Thread(target=self._keep, name=f"keep-{name}", daemon=True)
        self._keeper.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def saw_answer(self) -> None:
        """Whoever keeps it has heard it: from now on its silence counts."""
        self.answering, self._answered_at = True, time.monotonic()

    def wait_ready(self, timeout_s: float) -> None:
        """Until it answers. Raises ServiceError with the end of its log when it dies or takes too long."""
        deadline = time.monotonic() + timeout_s
        while not self._answers():
            if self._failed:
                raise ServiceError(self._failed)
            if time.monotonic() > deadline:
                raise ServiceError(f"{self.name} did not answer within {timeout_s:.0f} s; {self.log_end()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End it and all of its group: asked first, after a limit forced. Safe to call twice."""
        self._stopping.set()
        self._keeper.join()
        self._follow()
        _signal_group(self._process.pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while left := self._group():
            if self._launcher and left == {self._process.pid}:
                break
            if time.monotonic() > deadline:
                log.warning("%s did not stop within %.0f s and is ended by force", self.name, STOP_TIMEOUT_S)
                break
            time.sleep(0.02)
        _signal_group(self._process.pid, signal.SIGKILL)
        self._process.wait()
        while self._group():
            time.sleep(0.02)  # SIGKILL is not refused: the kernel is about to let go of them
        self._end_family()

    def _launch(self) -> subprocess.Popen[bytes]:
        with self.log_file.open("ab") as out:
            process = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=self._environment,
                start_new_session=True,
            )
        self._watch(process.pid)
        return process

    def _keep(self) -> None:
        checked = time.monotonic()
        while not self._stopping.wait(WATCH_S):
            code = self._process.poll()
            now = time.monotonic()
            if code is None:
                if now - checked >= CHECK_S:
                    self._follow()
                    self._end_if_silent()
                    checked = time.monotonic()
                continue
            _signal_group(self._process.pid, signal.SIGKILL)  # what the dead server began
            self._end_family()
            self._deaths = [*self._policy.remembered(self._deaths, now), now]
            delay = self._policy.delay(self._deaths, now)
            if delay is None:
                self._failed = f"{self.name} died {self.restarts + 1} times, the last time with exit status {code}; {self.log_end()}"
                log.error("%s", self._failed)
                return
            self.restarts += 1
            log.warning(
                "%s died (exit status %s), starting it again at the same address in %.1f s; its log: %s",
                self.name,
                code,
                delay,
                self.log_file,
            )
            self._stopping.wait(delay)
            if not self._stopping.is_set():
                self._answered_at, self.answering = None, False
                self.since = time.time()
                self._process = self._launch()

    def _end_if_silent(self) -> None:
        if not self._hang_s:
            return
        self.answering = self._answers()
        if self.answering:
            self.saw_answer()
        elif self._answered_at is not None and time.monotonic() - self._answered_at > self._hang_s:
            log.warning("%s has not answered for %.0f s and is ended, to be started again", self.name, self._hang_s)
            _signal_group(self._process.pid, signal.SIGKILL)

    def _follow(self) -> None:
        """Learn which processes descend from it while they can still be told from others."""
        if self._family is not None:
            self._family = guardian.alive(self._family) | guardian.descendants({self._process.pid}, guardian.table())

    def _end_family(self) -> None:
        if self._family and (left := guardian.alive(self._family)):
            guardian.end(left)
            self._family = {}

    def _group(self) -> set[int]:
        """Its processes that still run."""
        self._process.poll()
        return {pid for pid in guardian.table() if _group_of(pid) == self._process.pid}

    def log_end(self) -> str:
        """The last lines it wrote, for a message."""
        lines = self.log_file.read_text(errors="replace").splitlines()[-8:]
        return f"the end of its log {self.log_file}:\n" + "\n".join(f"    {line}" for line in lines)


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _group_of(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0
