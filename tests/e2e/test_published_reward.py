"""A reward of the user's own: registered, pinned by a run, failing, mended, looked at again."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import MicroRuns, processes_of, report, updates

from orchestrator.rewards_store import open_store

pytestmark = pytest.mark.slow

TOUCHY = '''"""A reward that can't judge some questions."""
from rewards import Sample, reward


@reward("touchy")
def touchy(sample: Sample) -> float | None:
    """1.0 for a reply that is there."""
    if sample.question["task"] == "count":
        return {count}
    return float(bool(sample.reply))
'''
CASES = [
    {"case": "a reply", "question": {"task": "order"}, "response": "<think>\nI hear a dog.\n</think>\ndog", "expected": 1.0},
    {"case": "no reply", "question": {"task": "order"}, "response": "<think>\nI hear a dog.\n</think>\n", "expected": 0.0},
]  # fmt: skip


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """State of a machine with a registry of its own."""
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(autouse=True)
def use_registry(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MGRD_STATE", str(registry))
    monkeypatch.delenv("MGRD_REDIS_URL", raising=False)


def mgrd(*argv: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", *argv],
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.returncode, done.stdout + done.stderr


def register(folder: Path, count: str) -> None:
    (folder / "touchy.py").write_text(TOUCHY.replace("{count}", count))
    (folder / "cases.jsonl").write_text("".join(json.dumps(case) + "\n" for case in CASES))
    code, output = mgrd(
        "rewards", "register", f"{folder}/touchy.py:touchy", "--golden", f"{folder}/cases.jsonl", "--tag", "stable"
    )
    assert code == 0, output


def test_a_failing_reward_pauses_the_run_and_a_mended_one_goes_on(micro_runs: MicroRuns, tmp_path: Path) -> None:
    run_dir = micro_runs.root / "touchy"
    terms = (
        *("reward.terms.touchy.weight=0.1", "reward.terms.touchy.version=touchy@stable"),
        *("pipeline.sft.steps=2", "pipeline.reinforce.updates=1"),
    )
    register(tmp_path, "None")
    with open_store() as store:
        first = store.find("stable", name="touchy")

    code, output = micro_runs.run(run_dir, *terms)
    text = " ".join(output.split())
    assert code == 3, output
    assert "paused: evaluate before RL/sampled: the reward 'touchy' failed on" in text
    assert text.count("touchy returned None") >= 3
    assert processes_of(run_dir) == []
    pinned = json.loads((run_dir / "state.json").read_text())["rewards"]
    assert pinned["touchy"].startswith("sha256:")

    register(tmp_path, "1.0")
    with open_store() as store:
        assert store.find("stable", name="touchy") != first
    code, output = micro_runs.run(run_dir, *terms, "run.resume=true")
    assert code == 2, output
    assert "the run's reward functions have changed: touchy was sha256:" in " ".join(output.split())

    code, output = micro_runs.run(run_dir, *terms, "run.resume=true", "reward.accept_changes=true")
    assert code == 0, output
    assert report(run_dir)["status"] == "succeeded"
    assert json.loads((run_dir / "state.json").read_text())["rewards"]["touchy"] != pinned["touchy"]
    metrics = updates(run_dir)[0]["metrics"]
    assert metrics["reward/touchy/invalid_share"] == 0.0
    assert 0.0 <= metrics["reward/touchy"] <= 1.0 and metrics["reward/touchy/dataset/train"] == metrics["reward/touchy"]
    store_file = sqlite3.connect(micro_runs.root / "mlflow" / "mlflow.db")
    keys = {key for (key,) in store_file.execute("select distinct key from metrics where key like 'reward/touchy%'")}
    assert {"reward/touchy", "reward/touchy/std", "reward/touchy/seconds_p95", "reward/touchy/invalid_share"} <= keys

    code, output = mgrd("rewards", "diff", "think_present", "touchy@stable", "--run", str(run_dir), "--json")
    assert code == 0, output
    assert sorted(p.name for p in (run_dir / "trajectories").iterdir())[-1] == "update_000001.jsonl.gz"
