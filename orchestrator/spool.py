"""A write-ahead queue of records for the tracking server, in a folder: appended before anything is sent, kept until it is delivered.

Neighbours: `tracking.py` appends, its sender reads and acknowledges; `mlflow_delivery.py` says what a record means to MLflow.
Invariants: a record that `append` returned from survives SIGKILL; records leave in the order they came; a file that a record needs is
the spool's own copy; one process at a time has the folder open. Pure files: no network, no threads.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from orchestrator.errors import MgrdError

MAIN = "main"  # the name of the run itself; a nested run is `main/stage`


class TrackingError(MgrdError):
    """A record that can't be tracked, or a tracking server that does not answer when an answer is needed."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """Values of one step (policy update) of one run. time_ms: when they were logged, part of what makes a resend harmless."""

    run: str
    step: int
    time_ms: int
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Params:
    run: str
    values: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Tags:
    run: str
    values: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class NestedRun:
    """A run inside `parent`, created on the server when its turn comes."""

    run: str
    parent: str
    name: str
    time_ms: int


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file, staged in the spool, to be stored in the run's artifacts as `path`."""

    run: str
    staged: str
    path: str


@dataclass(frozen=True, slots=True)
class DatasetInput:
    """A file of questions that the run reads, by name and full content digest."""

    run: str
    name: str
    source: str
    digest: str


@dataclass(frozen=True, slots=True)
class Model:
    """A Hugging Face folder to be stored with the run and registered under `name`. It is read when its turn comes."""

    run: str
    folder: str
    name: str
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of a run. status: FINISHED, FAILED or KILLED. reason: why, empty when it went well."""

    run: str
    status: str
    reason: str
    time_ms: int


Record = Metrics | Params | Tags | NestedRun | Artifact | DatasetInput | Model | Finish
KINDS: dict[str, type[Record]] = {
    kind.__name__: kind for kind in (Metrics, Params, Tags, NestedRun, Artifact, DatasetInput, Model, Finish)
}


@dataclass(slots=True)
class State:
    """offset: bytes of the log that are delivered. runs: run name → MLflow run id."""

    offset: int = 0
    runs: dict[str, str] = field(default_factory=dict)


class Spool:
    """Opened by one process at a time. Raises TrackingError when another one has it, or when the folder can't be written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._guard = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._owner = (folder / "lock").open("w")
            self._log = (folder / "records.jsonl").open("ab+", buffering=0)
        except OSError as error:
            raise TrackingError(
                f"{folder}: can't keep tracking records here ({error.strerror}); choose a writable run.dir"
            ) from error
        try:
            fcntl.lockf(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._log.close()
            self._owner.close()
            raise TrackingError(
                f"{folder}: another process is delivering these tracking records; wait until it ends"
            ) from error
        self._state_file = folder / "state.json"
        self.state = State(**json.loads(self._state_file.read_text())) if self._state_file.exists() else State()
        self._drop_torn_end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with self._guard:
            self._log.close()
            self._owner.close()

    def append(self, record: Record) -> None:
        line = json.dumps({"kind": type(record).__name__, **asdict(record)}, ensure_ascii=False) + "\n"
        with self._guard:
            if self._log.closed:
                raise TrackingError(f"the run is finished: a {type(record).__name__} record came after `finish`")
            self._log.write(line.encode())

    def stage(self, source: Path, name: str) -> str:
        """Copy a file into the spool as `name`, so that it may change or go away. Returns the copy's path within the spool."""
        target = self._new_staged(name)
        try:
            shutil.copyfile(source, target)
        except OSError as error:
            raise TrackingError(f"{source}: can't be read as an artifact ({error.strerror})") from error
        return str(target.relative_to(self.folder))

    def stage_text(self, content: str, name: str) -> str:
        target = self._new_staged(name)
        target.write_text(content)
        return str(target.relative_to(self.folder))

    def pending(self, limit: int) -> list[tuple[Record, int]]:
        """The oldest undelivered records, each with the offset to acknowledge once it is delivered."""
        with self._guard:
            self._log.seek(self.state.offset)
            offset, out = self.state.offset, []
            for line in self._log.read().splitlines(keepends=True)[:limit]:
                offset += len(line)
                out.append((_record(line), offset))
            return out

    def everything(self) -> list[Record]:
        """All records since the run began, delivered or not."""
        with self._guard:
            self._log.seek(0)
            return [_record(line) for line in self._log.read().splitlines()]

    def undelivered(self) -> int:
        """How many records wait."""
        with self._guard:
            self._log.seek(self.state.offset)
            return self._log.read().count(b"\n")

    def acknowledge(self, offset: int, record: Record) -> None:
        """`record`, which ends at `offset`, and all before it are delivered."""
        self.state.offset = offset
        self.save()
        if isinstance(record, Artifact):
            shutil.rmtree((self.folder / record.staged).parent)

    def refuse(self, record: Record, reason: str) -> None:
        """Set a record aside that the server will never take."""
        with (self.folder / "refused.jsonl").open("a") as out:
            out.write(
                json.dumps({"reason": reason, "kind": type(record).__name__, **asdict(record)}, ensure_ascii=False)
                + "\n"
            )

    def save(self) -> None:
        temporary = self._state_file.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(self.state)))
        temporary.replace(self._state_file)

    def _new_staged(self, name: str) -> Path:
        parent = self.folder / "staged"
        parent.mkdir(exist_ok=True)
        number = 0
        while True:
            try:
                (parent / str(number)).mkdir()
                return parent / str(number) / Path(name).name
            except FileExistsError:
                number += 1

    def _drop_torn_end(self) -> None:
        """A process killed while it wrote leaves half a line: that record was never accepted."""
        content = self._log.read() if self._log.seek(0) == 0 else b""
        whole = content.rfind(b"\n") + 1
        if whole != len(content):
            os.truncate(self._log.fileno(), whole)


def _record(line: bytes) -> Record:
    fields: dict[str, Any] = json.loads(line)
    return KINDS[fields.pop("kind")](**fields)
