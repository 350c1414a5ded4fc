"""Where the service keeps its things, and the files that it writes about itself.

Neighbours: `supervisor` writes, `discovery` and `up` read; `service_record` is what others on this machine read; the store, the API and
the jobs take folders from here. Invariants: everything is below one folder; what holds secrets is readable by its owner only and is
replaced as a whole, never half-written; addresses in the file outlive the service, so that the next start can use them again.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from orchestrator.service_record import (
    RECORD,
    HomeError,
    ServiceRecord,
    is_alive,
    read_json,
    read_record,
    service_folder,
)

ALREADY = 3  # exit status of a supervisor that found another at work


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """One process that the supervisor keeps. restarts: since the service started; ready: it answered lately; note: what ails it."""

    name: str
    pid: int
    pid_start: int
    since: float
    restarts: int = 0
    ready: bool = False
    note: str = ""
    log: str = ""


@dataclass(frozen=True, slots=True)
class ProcessTable:
    """`processes.json`: also names what a start must end first when supervisor and guardian were both killed."""

    processes: tuple[ProcessRecord, ...] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class Home:
    """Folders and files of the service. Make one by `Home.default()`; `make` creates the folders."""

    root: Path

    @classmethod
    def default(cls) -> Home:
        """`$MGRD_STATE`/service; see `paths.state_dir`."""
        return cls(service_folder())

    @property
    def record_file(self) -> Path:
        return self.root / RECORD

    @property
    def processes_file(self) -> Path:
        return self.root / "processes.json"

    @property
    def settings_file(self) -> Path:
        """What the service that runs, or ran last, was started with: the settings of its `mgrd up`, as JSON."""
        return self.root / "settings.json"

    @property
    def lock_file(self) -> Path:
        """Held by the supervisor, and after its death by whoever still cleans up behind it."""
        return self.root / "lock"

    @property
    def redis(self) -> Path:
        """Parent of the data of the service's own Redis."""
        return self.root / "redis"

    @property
    def runs(self) -> Path:
        """A folder an experiment; on a cluster, on a volume that all machines share."""
        return self.root / "runs"

    @property
    def code(self) -> Path:
        """User code: SHA-256.zip."""
        return self.root / "code"

    @property
    def logs(self) -> Path:
        """A file a process that the supervisor keeps."""
        return self.root / "logs"

    def run_dir(self, experiment: str) -> Path:
        return self.runs / experiment

    def make(self) -> None:
        """Create the folders, for their owner only. Raises HomeError."""
        for folder in (self.root, self.redis, self.runs, self.code, self.logs):
            try:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            except OSError as error:
                raise HomeError(
                    f"{folder} can't be created ({error.strerror}): set MGRD_STATE to a folder you may write to"
                ) from error

    def record(self) -> ServiceRecord:
        """Of the last start; an empty one before the first. Raises HomeError for a file that is not ours."""
        return read_record(self.root)

    def write_record(self, record: ServiceRecord) -> None:
        self.write(self.record_file, msgspec.json.format(msgspec.json.encode(record)))

    def processes(self) -> ProcessTable:
        return read_json(self.processes_file, ProcessTable) or ProcessTable()

    def write_processes(self, table: ProcessTable) -> None:
        self.write(self.processes_file, msgspec.json.format(msgspec.json.encode(table)))

    @staticmethod
    def write(path: Path, content: bytes) -> None:
        """Replace `path` as a whole, readable by its owner only. Raises HomeError."""
        fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
                out.write(content)
                out.flush()
                os.fsync(out.fileno())
            fresh.replace(path)
        except OSError as error:
            fresh.unlink(missing_ok=True)
            raise HomeError(
                f"{path} can't be written ({error.strerror}): free some disk space, or set MGRD_STATE"
            ) from error


__all__ = ["ALREADY", "Home", "HomeError", "ProcessRecord", "ProcessTable", "ServiceRecord", "is_alive"]
