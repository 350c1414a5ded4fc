"""`mgrd eval` on a benchmark with the shipped model: killed half-way, it goes on and ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from mlflow import MlflowClient

pytestmark = pytest.mark.slow
RATE = 16_000
LIMIT_S = 300.0


def benchmark(folder: Path) -> Path:
    """Six MMSU records about tones: which of two is higher?"""
    (folder / "audio").mkdir(parents=True)
    records = []
    for number in range(6):
        time_T = np.arange(RATE // 2) / RATE
        low, high = 300 + 20 * number, 700 + 30 * number
        first, second = (low, high) if number % 2 else (high, low)
        wave = np.concatenate([np.sin(2 * np.pi * hertz * time_T) for hertz in (first, second)]) * 0.3
        soundfile.write(folder / f"audio/tone_{number}.wav", wave, RATE)
        records.append(
            {
                "id": f"tone_{number}", "task_name": "pitch_comparison", "audio_path": f"./audio/tone_{number}.wav",
                "question": "Which note is higher?", "choice_a": "first", "choice_b": "second", "choice_c": None,
                "choice_d": None, "answer_gt": "second" if number % 2 else "first", "category": "Perception",
                "sub-category": "Paralinguistics", "sub-sub-category": "Speaker Traits",
            }
        )  # fmt: skip
    (folder / "mmsu.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def run(root: Path, out: str, *more: str, chaos: str = "") -> subprocess.CompletedProcess[str]:
    argv = [
        sys.executable,
        "-m",
        "orchestrator.cli",
        "eval",
        "tiny",
        "--benchmark",
        "mmsu",
        "--path",
        "mmsu",
        "--out",
        out,
    ]
    argv += ["--samples", "2", "--pass-k", "1,2", "--chunk", "4", *more]
    argv += ["--set", f"cluster.mlflow_uri=sqlite:///{root}/mlflow.db", "--set", f"data.feature_dir={root}/features"]
    environment = os.environ | ({"MGRD_CHAOS_POINT": chaos} if chaos else {})
    return subprocess.run(argv, cwd=root, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False)


def test_a_killed_evaluation_goes_on_and_finds_what_it_would_have_found(tmp_path: Path) -> None:
    benchmark(tmp_path / "mmsu")
    killed = run(tmp_path, "one", chaos="eval:sampled:0")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    kept = tmp_path / "one/chunks/sampled-00000.jsonl.gz"
    before = kept.stat().st_mtime_ns

    again = run(tmp_path, "one", "--resume")
    assert again.returncode == 0, again.stdout + again.stderr
    assert kept.stat().st_mtime_ns == before
    report = json.loads((tmp_path / "one/report.json").read_text())
    assert report["questions"] == 6 and report["samples"] == 2
    assert report["invalid_verdicts"] == 0
    assert report["scoring"]["terms"] == [{"name": "answer", "parameters": {"rules": "mmsu"}}]
    assert set(report["by_task"]) == {"pitch_comparison"}
    assert set(report["pass_at"]) == {"1", "2"}
    for name in ("table.md", "accuracy_by_task.png", "accuracy_by_think_length.png"):
        assert (tmp_path / "one" / name).stat().st_size > 100

    whole = run(tmp_path, "two", "--contribution")
    assert whole.returncode == 0, whole.stdout + whole.stderr
    other = json.loads((tmp_path / "two/report.json").read_text())
    for key in ("sampled", "greedy", "pass_at", "by_task", "think_tokens", "longer_thinking", "rewards"):
        assert other[key] == report[key], key
    assert set(other["contribution"]["without_clip"]) == {"silence", "noise", "swap"}

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    record = client.get_run(report["mlflow"]["run_id"])
    assert record.info.status == "FINISHED"
    assert record.data.tags["mgrd.model_digest"] == report["model"]["digest"]
    assert record.data.tags["dataset.evaluation.digest"] == report["data"]["digest"]
    assert record.data.metrics["accuracy/sampled"] == pytest.approx(report["sampled"]["value"])
    assert {"report.json", "table.md"} <= {file.path for file in client.list_artifacts(record.info.run_id)}

    refused = run(tmp_path, "one", "--resume", "--seed", "12")
    assert refused.returncode == 2 and "seed was 11, is 12" in " ".join(refused.stderr.split())
