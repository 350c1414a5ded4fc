"""Finished parts of an evaluation on disk, so that none is sampled twice.

Neighbours: `runner` asks what is missing and hands in what is done. Invariants: a chunk is written whole, then named; the folder
belongs to one plan (model, data, sampling, rewards), any other is refused.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import PreflightError
from orchestrator.rundir import write_atomic
from rewards import TRAJECTORY_SUFFIX, StoredTrajectory, read_stored, write_stored


@dataclass(frozen=True, slots=True)
class EvaluationPlan:
    """Everything that decides what an evaluation finds. digests: SHA-256; rewards: content hash by function; scoring: digest of the
    scoring terms with their parameters; chunk: questions."""

    model: str
    model_digest: str
    data: str
    data_digest: str
    questions: int
    samples: int
    temperature: float
    max_new_tokens: int
    seed: int
    chunk: int
    rewards: dict[str, str]
    scoring: str
    passes: tuple[str, ...] = ("sampled", "greedy")

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"passes": list(self.passes)}


# Where the model or the data lie, and which passes are wanted, does not change what a finished chunk holds.
FREE = ("model", "data", "passes")


class ChunkStore:
    """Chunks by pass and number in `folder`/chunks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plan_file = folder / "plan.json"
        self.chunks = folder / "chunks"

    @contextmanager
    def claimed(self, plan: EvaluationPlan, resume: bool) -> Iterator[None]:
        """Hold the folder for one evaluation.

        Raises PreflightError when another process holds it, when it holds an evaluation and `resume` is false, or one of another
        plan.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / ".lock").open("w")
        except OSError as error:
            raise PreflightError(
                f"{self.folder} can't be written ({error.strerror}); choose another folder with --out"
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise PreflightError(
                    f"another evaluation is writing to {self.folder}; wait for it, or choose another"
                ) from error
            self._take(plan, resume)
            yield

    def _take(self, plan: EvaluationPlan, resume: bool) -> None:
        if self.plan_file.exists():
            if not resume:
                raise PreflightError(
                    f"{self.folder} already holds an evaluation; go on with --resume, or choose another folder with --out"
                )
            before = json.loads(self.plan_file.read_text(encoding="utf-8"))
            now = plan.to_dict()
            other = [key for key in now if key not in FREE and before.get(key) != now[key]]
            if other:
                told = "; ".join(f"{key} was {before.get(key)!r}, is {now[key]!r}" for key in other)
                raise PreflightError(
                    f"{self.folder} holds an evaluation of something else ({told}): give it the same again, or choose another "
                    "folder with --out"
                )
        elif resume:
            raise PreflightError(f"nothing to resume in {self.folder}: it holds no plan.json; start without --resume")
        self.chunks.mkdir(parents=True, exist_ok=True)
        write_atomic(self.plan_file, json.dumps(plan.to_dict(), indent=1) + "\n")

    def path(self, pass_name: str, number: int) -> Path:
        return self.chunks / f"{pass_name}-{number:05d}{TRAJECTORY_SUFFIX}"

    def has(self, pass_name: str, number: int) -> bool:
        return self.path(pass_name, number).exists()

    def write(self, pass_name: str, number: int, trajectories: Sequence[StoredTrajectory]) -> None:
        write_stored(self.path(pass_name, number), trajectories)

    def read(self, pass_name: str, number: int) -> list[StoredTrajectory]:
        """Raises RewardError for a chunk that can't be read."""
        return list(read_stored([self.path(pass_name, number)]))
