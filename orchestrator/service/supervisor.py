"""The process that keeps the service: Redis, MLflow, Ray, API and schedulers, each a process of its own, for months.

Neighbours: `up` starts and stops it, `members` says what to run, `processes` keeps one process, `drain` brings running experiments to a
stop. Invariants: one supervisor a home, by a lock that is free only when nothing it began is left; SIGTERM ends everything in order;
SIGKILL leaves the rest to the guardian; what dies is started again, with longer pauses the more often it dies, and never given up once
the service has been ready.

    python -m orchestrator.service.supervisor < settings.json      # as `mgrd up` calls it; kept in the home by the one that serves
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import getpass
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import msgspec

from orchestrator import guardian
from orchestrator.errors import ConfigError, MgrdError
from orchestrator.processes import Guardian, ServiceError, ServiceProcess
from orchestrator.restarts import SERVICE
from orchestrator.service import members as service_members
from orchestrator.service.drain import ask_to_pause, queue_again, settle_without_jobs, to_ask, wait_until_still
from orchestrator.service.home import ALREADY, Home, HomeError, ProcessRecord, ProcessTable, ServiceRecord
from orchestrator.service.members import API, ASK_S, RAY, REDIS, SCHEDULER, Member
from orchestrator.service.messages import User
from orchestrator.service.rotation import rotate
from orchestrator.service.settings import ServiceSettings
from orchestrator.service.store import Store
from orchestrator.service.tokens import TokenStore, new_token

TICK_S = 0.25
LOOK_S = 2.0  # between looks at readiness and log sizes
LOCK_WAIT_S = 30.0  # a guardian needs up to 15 s to end what a killed supervisor left
STOP_PATIENCE_S = 5.0  # for Redis, while everything waits to end
DEATHS_BEFORE_READY = (
    3  # one that dies so often without ever answering is broken: `mgrd up` says why instead of waiting
)

log = logging.getLogger("supervisor")
Members = Callable[[ServiceSettings, ServiceRecord, Home], list[Member]]


class AlreadyRuns(MgrdError):
    """Another supervisor holds this home."""


class Supervisor:
    """members, place: what to run and where; others than the service's own in tests."""

    def __init__(
        self,
        home: Home,
        settings: ServiceSettings,
        *,
        members: Members = service_members.members,
        place: Callable[[ServiceSettings, ServiceRecord], ServiceRecord] = service_members.place,
    ) -> None:
        self.home = home
        self.settings = settings
        self._members = members
        self._place = place
        self._stopping = threading.Event()
        self._hurry = threading.Event()
        self._record = ServiceRecord()
        self._kept: dict[str, tuple[Member, ServiceProcess]] = {}
        self._ready: dict[str, bool] = {}
        self._written: ProcessTable | None = None

    def stop(self) -> None:
        """Ask it to end; `run` returns when everything is gone. Asked twice, it does not wait for experiments."""
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()

    def run(self) -> int:
        """Start, keep, and at the end stop everything. Returns the exit status; the record says why when it is not 0."""
        self.home.make()
        with _locked(self.home) as lock:
            Home.write(
                self.home.settings_file, msgspec.json.encode(self.settings)
            )  # of two that start at once, the one that serves
            self._end_leftovers()
            keeper = Guardian(self.home.logs / "guardian.log", keep_open=(lock,))
            error = ""
            try:
                self._start(keeper)
                self._keep()
            except MgrdError as reason:
                error = str(reason)
                log.error("%s", error)
            self._end(error)
            keeper.dismiss()  # only here: were `_end` to fail, the guardian ends what is left
        return 1 if error else 0

    def _end_leftovers(self) -> None:
        """Of a start whose supervisor and guardian were both killed."""
        known = {row.pid: row.pid_start for row in self.home.processes().processes}
        if left := guardian.alive(known):
            log.warning("ending %d processes that an earlier start left behind", len(left))
            guardian.end(left)

    def _start(self, keeper: Guardian) -> None:
        row = guardian.look(os.getpid())
        last = self.home.record()
        self._record = dataclasses.replace(
            self._place(self.settings, last),
            stopped=last.stopped,
            pid=os.getpid(),
            pid_start=row[1] if row else 0,
            started_at=time.time(),
        )
        self._write()
        service_members.check_given(self._record)
        for member in self._members(self.settings, self._record, self.home):
            if self._stopping.is_set():
                return
            if member.name == API:
                self._welcome()
            self._kept[member.name] = member, self._launch(member, keeper)
            self._write_processes()
            if member.name == REDIS:
                self._wait([member.name])  # every other process asks it first
        self._wait(list(self._kept))
        if not self._stopping.is_set():
            self._write(ready=True)
            log.info("ready: %s", self._record.url)

    def _welcome(self) -> None:
        """Before anything serves: the owner's token, and what a stop that was cut off has left paused."""
        self._keep_token()
        if self._record.stopped:
            with self._store() as store:
                queue_again(store, self._record.stopped)
            self._write(stopped=())

    def _keep_token(self) -> None:
        """A service that others can reach, or that has tokens, gives this machine's owner one of their own."""
        link = TokenStore.from_url(self._record.redis_url, self.settings.redis_prefix, patience_s=ASK_S)
        with contextlib.closing(link) as tokens:
            if self._record.token and isinstance(tokens.check(self._record.token), User):
                return
            if self.settings.loopback and not tokens.configured():
                if self._record.token:
                    self._write(token="")
                return
            plain = new_token()
            self._write(token=plain)  # first: a token that was kept and is then lost could not be shown again
            tokens.keep(plain, name="owner of this machine's service", user=getpass.getuser(), scope="admin")

    def _store(self) -> contextlib.closing[Store]:
        return contextlib.closing(
            Store.from_url(self._record.redis_url, self.settings.redis_prefix, patience_s=STOP_PATIENCE_S)
        )

    def _launch(self, member: Member, keeper: Guardian) -> ServiceProcess:
        log.info("starting %s", member.name)
        return ServiceProcess(
            member.name,
            member.argv,
            self.home.logs / f"{member.name}.log",
            member.answers,
            environment=member.environment,
            watch=keeper.watch,
            launcher=member.launcher,
            policy=SERVICE,
            hang_s=member.hang_s,
            family=member.family,
        )

    def _wait(self, names: list[str]) -> None:
        """Until all of them have answered. Raises ServiceError for one that keeps dying or takes too long."""
        begun = time.monotonic()
        waiting = [name for name in names if not self._ready.get(name)]
        while waiting and not self._stopping.wait(TICK_S):
            for name in list(waiting):
                member, process = self._kept[name]
                if process.restarts >= DEATHS_BEFORE_READY:
                    raise ServiceError(f"{name} died {process.restarts} times before it served; {process.log_end()}")
                if member.answers():
                    self._ready[name] = True
                    process.saw_answer()
                    waiting.remove(name)
                elif time.monotonic() - begun > member.ready_s:
                    raise ServiceError(f"{name} did not answer within {member.ready_s:.0f} s; {process.log_end()}")
            self._write_processes()

    def _keep(self) -> None:
        while not self._stopping.wait(LOOK_S):
            for name, (_, process) in self._kept.items():
                self._ready[name] = process.answering
            try:
                self._write_processes()
                if not self._record.token:
                    self._keep_token()
            except MgrdError as error:  # no disk left, Redis away: both may pass, and the service goes on
                log.warning("%s", error)
            self._rotate()

    def _rotate(self) -> None:
        for path in self.home.logs.glob("*.log"):
            try:
                rotate(path, int(self.settings.log_max_mb * 2**20), self.settings.log_backups)
            except OSError as error:
                log.warning("%s could not be turned over: %s", path, error.strerror)

    def _end(self, error: str) -> None:
        """Schedulers first, so that nothing new starts; then experiments, while Redis serves; Redis last."""
        log.info("stopping")
        was_ready = self._record.ready
        self._note(ready=False)
        for name in [name for name in self._kept if name.startswith(SCHEDULER)]:
            self._stop_one(name)
        # where Ray and Redis go on without us, so do experiments, and another scheduler adopts them
        mine = bool({RAY, REDIS} & set(self._record.own)) or self.settings.pause_on_stop
        if was_ready and mine:
            self._pause_experiments()
        for name in (API, RAY):
            self._stop_one(name)
        if was_ready and mine:
            self._queue_experiments()
        for name in [name for name in self._kept if name != REDIS] + [REDIS]:
            self._stop_one(name)
        self._note(pid=0, pid_start=0, error=error)
        self.home.write_processes(ProcessTable())
        log.info("stopped")

    def _stop_one(self, name: str) -> None:
        if name in self._kept:
            log.info("stopping %s", name)
            self._kept.pop(name)[1].stop()

    def _pause_experiments(self) -> None:
        try:
            with self._store() as store:
                ids = to_ask(store)
                self._note(stopped=tuple(ids))
                ask_to_pause(store, ids)
                if not wait_until_still(store, self.settings.stop_grace_s, self._hurry.is_set):
                    log.info("some experiments have not reached a checkpoint within %.0f s", self.settings.stop_grace_s)
        except MgrdError as error:
            log.error("experiments could not be asked to pause: %s", error)

    def _queue_experiments(self) -> None:
        try:
            with self._store() as store:
                settled = settle_without_jobs(store) if RAY in self._record.own else []
                queued = queue_again(store, [*dict.fromkeys([*self._record.stopped, *settled])])
                log.info("back in the queue: %s", ", ".join(queued) or "nothing")
                self._note(stopped=())
        except MgrdError as error:
            log.error("experiments could not be queued again, the next start does it: %s", error)

    def _note(self, **changes: Any) -> None:
        """`_write` for a service that ends: what can't be written must not keep it from ending."""
        try:
            self._write(**changes)
        except HomeError as error:
            log.error("%s", error)

    def _write(self, **changes: Any) -> None:
        self._record = dataclasses.replace(self._record, **changes)
        self.home.write_record(self._record)

    def _write_processes(self) -> None:
        """When something has changed; a reader sees restarts within LOOK_S."""
        rows = [self._row(name, process) for name, (_, process) in self._kept.items()]
        table = ProcessTable(tuple(rows))
        if table != self._written:
            self.home.write_processes(table)
            self._written = table

    def _row(self, name: str, process: ServiceProcess) -> ProcessRecord:
        row = guardian.look(process.pid)
        return ProcessRecord(
            name=name,
            pid=process.pid,
            pid_start=row[1] if row else 0,
            since=process.since,
            restarts=process.restarts,
            ready=self._ready.get(name, False) and row is not None,
            log=str(process.log_file),
        )


@contextlib.contextmanager
def _locked(home: Home) -> Iterator[int]:
    """Raises AlreadyRuns while another supervisor serves, and when one that died is still being cleaned up after LOCK_WAIT_S."""
    deadline = time.monotonic() + LOCK_WAIT_S
    try:
        lock = os.open(home.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HomeError(f"{home.lock_file} can't be opened ({error.strerror}): it belongs to another user") from error
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                record = home.record()
                if record.alive:
                    raise AlreadyRuns(f"the service already runs: {record.url} (process {record.pid})") from None
                if time.monotonic() > deadline:
                    raise HomeError(
                        f"something still holds {home.lock_file}, though no service runs: another start that hangs, or what cleans up "
                        "behind one that was killed; `fuser` on that file names it"
                    ) from None
                time.sleep(0.1)
        yield lock
    finally:
        os.close(lock)


def _told(text: bytes) -> ServiceSettings:
    try:
        return msgspec.json.decode(text, type=ServiceSettings)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"standard input holds no settings ({error}): start the service with `mgrd up`") from error


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line a question to Ray
    try:
        supervisor = Supervisor(Home.default(), _told(sys.stdin.buffer.read()))
    except ConfigError as error:
        log.error("%s", error)
        return 2

    def asked(_number: int, _frame: FrameType | None) -> None:
        supervisor.stop()

    signal.signal(signal.SIGTERM, asked)
    signal.signal(signal.SIGINT, asked)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        return supervisor.run()
    except AlreadyRuns as error:
        log.error("%s", error)
        return ALREADY
    except MgrdError as error:
        log.error("%s", error)
        return 1


if __name__ == "__main__":
    sys.exit(main())
