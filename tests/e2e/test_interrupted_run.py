"""Ctrl-C and kill -9: the resumed run ends with the numbers of one that nothing disturbed, and no process is left.

The tests' own eye is tested beside: it sees every process of a run that lives, so that seeing none means that none is left.
"""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import RUN_LIMIT_S, MicroRuns, eventually, processes_of, report, updates

pytestmark = [pytest.mark.slow, pytest.mark.chaos]
CLEAN_UP_LIMIT_S = 20.0
PARTS = (
    "VLLM::EngineCor",
    "ray::RolloutWor",
    "ray::TrainerWor",
    "ray::RewardWork",
    "raylet",
    "-server 127.0.0.1",
    "mlflow",
    "sandbox_child",
)


@dataclass(frozen=True)
class Interrupted:
    """A run that Ctrl-C ended after its first policy update; seen: its processes just before, elsewhere: those of no run."""

    directory: Path
    code: int
    output: str
    seen: list[str]
    elsewhere: list[str]


@pytest.fixture(scope="module")
def interrupted(standalone_runs: MicroRuns) -> Interrupted:
    directory = standalone_runs.root / "disturbed"
    process = standalone_runs.start(directory)
    try:
        deadline = time.monotonic() + RUN_LIMIT_S
        while not updates(directory) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGSTOP)  # no further update while its processes are looked at
        seen, elsewhere = processes_of(directory), processes_of(directory.with_name("elsewhere"))
    finally:
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        code, output = standalone_runs.finish(process)
    return Interrupted(directory, code, output, seen, elsewhere)


def test_engines_trainer_and_reward_workers_are_seen_while_they_live_and_none_after(interrupted: Interrupted) -> None:
    assert interrupted.code == 130, interrupted.output
    missing = [part for part in PARTS if not any(part in line for line in interrupted.seen)]
    assert not missing, (missing, interrupted.seen)
    assert interrupted.elsewhere == []
    assert eventually(lambda: processes_of(interrupted.directory) == [], CLEAN_UP_LIMIT_S)


def test_an_interrupted_and_killed_run_ends_like_an_undisturbed_one(
    interrupted: Interrupted, standalone_runs: MicroRuns, whole_run: Path
) -> None:
    directory = interrupted.directory
    assert "run.resume=true" in interrupted.output
    assert 0 < len(updates(directory)) < 4

    background = "run.checkpoint_async=true"  # killed while the ranks' threads write
    code, output = standalone_runs.run(directory, "run.resume=true", background, chaos="checkpoint:update_000004:begun")
    assert code == -9, output
    assert eventually(lambda: processes_of(directory) == [], CLEAN_UP_LIMIT_S)
    assert not (directory / "report.json").exists()

    assert (directory / "checkpoints" / "update_000002" / "manifest.json").is_file()
    assert not (directory / "checkpoints" / "update_000004").exists()
    code, output = standalone_runs.run(directory, "run.resume=true", background)
    assert code == 0, output
    assert updates(directory) == updates(whole_run)
    assert report(directory)["eval"] == report(whole_run)["eval"]
    assert report(directory)["select"] == report(whole_run)["select"]
