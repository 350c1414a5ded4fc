"""The tests' own eye: it sees every process of a run that lives, so that seeing none means that none is left."""

from __future__ import annotations

import signal
import time

import pytest
from conftest import RUN_LIMIT_S, MicroRuns, eventually, processes_of, updates

pytestmark = pytest.mark.slow
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


def test_engines_trainer_and_reward_workers_are_seen_while_they_live_and_none_after(micro_runs: MicroRuns) -> None:
    directory = micro_runs.root / "watched"
    process = micro_runs.start(directory)
    try:
        deadline = time.monotonic() + RUN_LIMIT_S
        while not updates(directory) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        seen = processes_of(directory)
        others = processes_of(micro_runs.root / "elsewhere")
    finally:
        process.send_signal(signal.SIGINT)
        code, output = micro_runs.finish(process)
    assert code == 130, output
    missing = [part for part in PARTS if not any(part in line for line in seen)]
    assert not missing, (missing, seen)
    assert others == []
    assert eventually(lambda: processes_of(directory) == [], CLEAN_UP_LIMIT_S), processes_of(directory)
