"""A small data set from real recordings and whole runs of the command line on it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

RUN_LIMIT_S = 600.0  # of one run; a minute on two idle cores
MARK = "MGRD_TEST_RUN"  # environment variable that a run and all it starts carry: the run's directory
VARIES = ("seconds/", "publish/seconds", "publish/gb_per_s", "tokens_per_second", "generated_tokens_per_second")


@dataclass(frozen=True)
class MicroRuns:
    """Starts `mgrd run experiment=…` on the small data sets. mlflow: of the server that all runs share; "": each brings its own."""

    data: Path
    root: Path
    experiment: str = "micro"
    mlflow: str = ""

    @property
    def store(self) -> str:
        """Where runs may copy their checkpoints."""
        return f"file://{self.root / 'store'}"

    def argv(self, run_dir: Path, *overrides: str) -> list[str]:
        return [
            *(sys.executable, "-m", "orchestrator.cli", "run", f"experiment={self.experiment}", f"run.dir={run_dir}"),
            *(f"data.train={self.data / 'train.jsonl'}", f"data.held_out={self.data / 'held_out.jsonl'}"),
            *(f"data.feature_dir={self.root / 'features'}", self._tracking()),
            *overrides,
        ]

    def _tracking(self) -> str:
        return f"cluster.mlflow_uri={self.mlflow}" if self.mlflow else f"cluster.mlflow_root={self.root / 'own_mlflow'}"

    def start(
        self, run_dir: Path, *overrides: str, chaos: str = "", environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        point = {"MGRD_CHAOS_POINT": chaos} if chaos else {}
        return subprocess.Popen(
            self.argv(run_dir, *overrides),
            env=os.environ | {MARK: str(run_dir)} | point | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        output, _ = process.communicate(timeout=RUN_LIMIT_S)
        return process.returncode, output

    def run(self, run_dir: Path, *overrides: str, chaos: str = "") -> tuple[int, str]:
        return self.finish(self.start(run_dir, *overrides, chaos=chaos))


@dataclass(frozen=True)
class RecipeRuns(MicroRuns):
    """Starts the whole recipe."""

    def argv(self, run_dir: Path, *overrides: str) -> list[str]:
        text = self.root / "text"
        return super().argv(
            run_dir,
            f"data.text_train={text / 'train.jsonl'}",
            f"data.text_held_out={text / 'held_out.jsonl'}",
            f"data.conversations={self.root / 'conversations' / 'demonstrations.jsonl'}",
            *overrides,
        )


def updates(run_dir: Path) -> list[dict[str, Any]]:
    """What a run recorded of its policy updates, without what the clock decides."""
    path = run_dir / "updates.jsonl"
    if not path.exists():
        return []
    records = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
    for record in records:
        record["metrics"] = {
            k: v for k, v in record["metrics"].items() if not k.startswith(VARIES) and "/seconds_p" not in k
        }
    return records


def report(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "report.json").read_text())


def processes_of(run_dir: Path) -> list[str]:
    """Processes of a run that the tests have started: they name its directory, carry its mark in their environment (engines, trainer
    ranks and reward workers rename themselves), or descend from one that does (scoring processes get an environment of their own)."""
    everyone = {process.pid: process for process in psutil.process_iter() if process.pid != os.getpid()}
    parents = _parents(everyone)
    found = {pid for pid, process in everyone.items() if _belongs(process, run_dir)}
    while heirs := {pid for pid in everyone.keys() - found if parents.get(pid) in found}:
        found |= heirs
    return sorted(filter(None, (_said(everyone[pid]) for pid in found)))


def _parents(processes: dict[int, psutil.Process]) -> dict[int, int]:
    found = {}
    for pid, process in processes.items():
        with contextlib.suppress(psutil.Error):
            found[pid] = process.ppid()
    return found


def _belongs(process: psutil.Process, run_dir: Path) -> bool:
    """False for one that has ended meanwhile."""
    try:
        return str(run_dir) in " ".join(process.cmdline()) or process.environ().get(MARK) == str(run_dir)
    except (psutil.Error, OSError):
        return False


def _said(process: psutil.Process) -> str:
    """Name, number and command line; "" for one that has ended meanwhile, or waits for its parent to notice."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return ""
        return f"{process.name()} {process.pid}: {' '.join(process.cmdline())}"
    except psutil.Error:
        return ""


def eventually(check: Callable[[], bool], limit_s: float) -> bool:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if check():
            return True
        time.sleep(0.25)
    return check()


@pytest.fixture(scope="session")
def micro_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MicroRuns]:
    from orchestrator.datasets.acoustic_qa.build import build_acoustic_qa
    from orchestrator.embedded import EmbeddedServices

    root = tmp_path_factory.mktemp("e2e")
    with EmbeddedServices(root / "services", root / "mlflow") as services:
        uri = services.mlflow()
        build_acoustic_qa(root / "data", seed=3, train=60, held_out=20)
        services.wait_for_mlflow(uri)
        yield MicroRuns(root / "data", root, mlflow=uri)


@pytest.fixture(scope="session")
def standalone_runs(micro_runs: MicroRuns) -> MicroRuns:
    """Runs that bring everything themselves, MLflow too."""
    return replace(micro_runs, mlflow="")


@pytest.fixture(scope="session")
def recipe_runs(micro_runs: MicroRuns) -> MicroRuns:
    """The whole recipe at micro size, with text questions and conversations of its own."""
    from orchestrator.datasets.conversations import build_conversations
    from orchestrator.datasets.text_reasoning import build_text_reasoning

    text, talks = micro_runs.root / "text", micro_runs.root / "conversations"
    build_text_reasoning(text, seed=3, train=60, held_out=20)
    build_conversations(talks, seed=3, count=40)
    return RecipeRuns(micro_runs.data, micro_runs.root, "mgrd_micro", micro_runs.mlflow)


@pytest.fixture(scope="session")
def whole_recipe(recipe_runs: MicroRuns) -> Path:
    """The directory of a whole recipe that nothing disturbed."""
    directory = recipe_runs.root / "recipe"
    code, output = recipe_runs.run(directory)
    assert code == 0, output
    return directory


@pytest.fixture(scope="session")
def whole_run(micro_runs: MicroRuns) -> Path:
    """The directory of a run that nothing disturbed, with its best checkpoint marked and all of them copied to `micro_runs.store`."""
    directory = micro_runs.root / "whole"
    code, output = micro_runs.run(directory, "run.keep_best=1", f"run.checkpoint_url={micro_runs.store}")
    assert code == 0, output
    return directory
