"""The directory of one run: who may write there, what a resumed run finds there.

Neighbours: `preflight` claims it, `controller` keeps its state in it, `checkpoints` the models. Invariants: one process at a time (a
file lock the kernel drops with the process); files are written beside their names and then renamed, so no reader sees half of one;
`updates.jsonl` is appended to, and read up to its last whole line.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from orchestrator.checkpoints import CheckpointShelf
from orchestrator.errors import NotNow, PreflightError
from rewards import TRAJECTORY_SUFFIX, StoredTrajectory, write_stored


def write_atomic(path: Path, text: str, *, owner_only: bool = False) -> None:
    """Write whole, flush to disk, then name. owner_only: nobody else may read it."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        if owner_only:
            os.fchmod(file.fileno(), 0o600)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


class RunDirectory:
    """Paths and durable state under `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.config_file = self.root / "config.yaml"
        self.state_file = self.root / "state.json"
        self.updates_file = self.root / "updates.jsonl"
        self.report_file = self.root / "report.json"
        self.checkpoints = CheckpointShelf(self.root / "checkpoints")
        self.trajectories = self.root / "trajectories"
        self.logs = self.root / "logs"
        self._lock: IO[str] | None = None

    def claim(self, resume: bool) -> None:
        """Create the directory and take its lock. Raises PreflightError when it can't be written, is in use, or holds a run
        while `resume` is false (or holds none while it is true)."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._lock = (self.root / ".lock").open("a+")
        except OSError as error:
            raise PreflightError(
                f"run directory {self.root} can't be written ({error.strerror}); choose another with run.dir=…"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.seek(0)
            owner = self._lock.read().strip() or "unknown"
            self._lock.close()
            self._lock = None
            raise NotNow(
                f"another run (process {owner}) is writing to {self.root}; wait for it, stop it, or choose another run.dir"
            ) from error
        if self.state_file.exists() and not resume:
            self.release()
            raise PreflightError(
                f"{self.root} already holds a run; continue it with run.resume=true, choose another run.dir, or delete the directory"
            )
        if resume and not self.state_file.exists():
            self.release()
            raise PreflightError(
                f"nothing to resume in {self.root}: it holds no state.json; start without run.resume=true"
            )
        self._lock.seek(0)
        self._lock.truncate()
        self._lock.write(str(os.getpid()))
        self._lock.flush()
        self.checkpoints.root.mkdir(exist_ok=True)

    def release(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def read_state(self) -> dict[str, Any]:
        if not self.state_file.exists():
            return {}
        return json.loads(self.state_file.read_text(encoding="utf-8"))

    def write_state(self, state: dict[str, Any]) -> None:
        write_atomic(self.state_file, json.dumps(state, indent=1))

    def append_update(self, record: dict[str, Any]) -> None:
        """One line a policy update, durable when this returns."""
        with self.updates_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def read_updates(self) -> list[dict[str, Any]]:
        """Records of all stages, by number of the policy update."""
        if not self.updates_file.exists():
            return []
        lines = self.updates_file.read_text(encoding="utf-8").split("\n")
        records = [json.loads(line) for line in lines[:-1]]  # what follows the last newline was never completed
        return sorted(records, key=lambda record: record["update"])

    def drop_updates_after(self, update: int, stage: str) -> None:
        """Forget a stage's records after `update`: it writes them again. Records of other stages stay."""
        kept = [r for r in self.read_updates() if r["update"] <= update or r.get("stage", stage) != stage]
        write_atomic(self.updates_file, "".join(json.dumps(record) + "\n" for record in kept))

    def store_trajectories(self, name: str, trajectories: Sequence[StoredTrajectory]) -> None:
        """What was sampled and how it was judged, for `mgrd rewards diff`; same name, same place."""
        write_stored(self.trajectories / f"{name}{TRAJECTORY_SUFFIX}", trajectories)
