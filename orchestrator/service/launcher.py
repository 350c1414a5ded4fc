"""An attempt of an experiment as a Ray job: submitted at most once, looked at, stopped.

Neighbours: `scheduler` decides, `job` is what runs. Invariants: a job's id is ID-ATTEMPT, and Ray refuses a second one of that id; a job
that Ray does not know is a value, not an error; nothing here waits for a job; what Ray is told, and shows to whoever sees its dashboard,
holds no password: addresses lie in the experiment's folder, for their owner only.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import msgspec

from orchestrator.service.home import Home, HomeError
from orchestrator.service.messages import Experiment
from orchestrator.service.ray_api import RayApi, RayRefused

STOP_WAIT_S = (
    8  # between asking a job to end (SIGTERM) and ending it (SIGKILL): enough to close engines and tell MLflow
)
# With passwords; the rest of a job's variables is nobody's secret.
ADDRESSES = ("MGRD_REDIS_URL", "MGRD_REDIS_PREFIX", "MGRD_MLFLOW_URI")
ADDRESSES_FILE = "addresses.json"  # in the experiment's folder, which every machine sees


class JobState(StrEnum):
    UNKNOWN = "unknown"  # never submitted, or Ray has lost its memory
    PENDING = "pending"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class JobView:
    """exit_code: of the driver, None where it has none; said: the last line of its output, or Ray's own reason."""

    state: JobState
    exit_code: int | None = None
    said: str = ""

    @property
    def over(self) -> bool:
        """No driver of it runs."""
        return self.state in (JobState.UNKNOWN, JobState.ENDED)


class Launcher(Protocol):
    """Raises RayAway, RayRefused."""

    def launch(self, experiment: Experiment) -> None:
        """Start its present attempt. A job of that id that is there already is left as it is."""

    def look(self, job: str) -> JobView: ...

    def stop(self, job: str) -> None:
        """Ask Ray to end it; an unknown or ended one is left as it is."""

    def leftovers(self, job: str) -> int:
        """Processes of it that Ray still runs."""


class RayLauncher:
    """environment: of every job, on top of the cluster's own, but for `ADDRESSES`, which travel by a file; code: folder of user code,
    SHA-256.zip, that all machines see."""

    def __init__(self, api: RayApi, environment: Mapping[str, str], code: Path) -> None:
        self._api = api
        self._environment = {name: value for name, value in environment.items() if name not in ADDRESSES}
        self._addresses = {name: value for name, value in environment.items() if name in ADDRESSES}
        self._code = code

    def launch(self, experiment: Experiment) -> None:
        addresses = self._write_addresses(experiment)
        command = [sys.executable, "-m", "orchestrator.service.job", experiment.id, str(experiment.attempt), addresses]
        request = {
            "entrypoint": "exec "
            + shlex.join(command),  # no shell between Ray and the job: a signal reaches the job itself
            "submission_id": experiment.job,
            "runtime_env": self._runtime_env(experiment),
            "metadata": {"experiment": experiment.id, "user": experiment.user, "name": experiment.name},
        }
        try:
            self._api.post("/api/jobs/", request)
        except RayRefused:
            if self.look(experiment.job).state is JobState.UNKNOWN:
                raise

    def _write_addresses(self, experiment: Experiment) -> str:
        """Anew for each attempt, since servers may have moved. Returns the file's path."""
        file = Path(experiment.run_dir).absolute() / ADDRESSES_FILE
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            Home.write(file, msgspec.json.encode(self._addresses))
        except (OSError, HomeError) as error:
            raise RayRefused(f"the folder of {experiment.id} can't be written: {error}") from error
        return str(file)

    def look(self, job: str) -> JobView:
        found = self._api.get(f"/api/jobs/{job}")
        if found is None:
            return JobView(JobState.UNKNOWN, said="Ray does not know the job")
        status = str(found["status"])
        if status in ("PENDING", "RUNNING"):
            return JobView(JobState(status.lower()))
        return JobView(JobState.ENDED, found.get("driver_exit_code"), _last_line(str(found.get("message") or status)))

    def stop(self, job: str) -> None:
        self._api.post(f"/api/jobs/{job}/stop")

    def leftovers(self, job: str) -> int:
        return len(self._api.rows("actors", state="ALIVE", ray_namespace=namespace_of(job)))

    def _runtime_env(self, experiment: Experiment) -> dict[str, Any]:
        variables = self._environment | {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)}
        found: dict[str, Any] = {"env_vars": variables}
        if experiment.code:
            found["working_dir"] = (self._code / f"{experiment.code}.zip").absolute().as_uri()
        return found


def namespace_of(job: str) -> str:
    """Ray namespace of a job's actors, and name of its placement group."""
    return f"mgrd-{job}"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:2000] if lines else ""
