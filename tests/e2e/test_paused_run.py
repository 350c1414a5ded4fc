"""A sentinel's alarm pauses a run between checkpoints; `mgrd resume` with a changed key ends it as if nothing had been."""

import json
import os
import subprocess
import sys

import pytest
from conftest import MARK, RUN_LIMIT_S, MicroRuns, processes_of, report, updates

from orchestrator.cli import PAUSED

pytestmark = pytest.mark.slow
TOUCHY = ("pipeline.sentinels.window=1", "pipeline.sentinels.warmup=1", "pipeline.sentinels.mismatch_max=1e-12")


def test_an_alarm_pauses_with_evidence_and_a_resumed_run_ends_like_an_undisturbed_one(micro_runs: MicroRuns, whole_run):
    directory = micro_runs.root / "paused"
    code, output = micro_runs.run(directory, *TOUCHY)
    assert code == PAUSED, output
    assert "sentinel 'mismatch'" in " ".join(output.split())
    assert f"mgrd resume {directory}" in " ".join(output.split())
    assert processes_of(directory) == []
    paused = json.loads((directory / "paused.json").read_text())
    assert (paused["state"], paused["sentinel"], paused["update"]) == ("paused", "mismatch", 1)
    assert (directory / "checkpoints" / paused["checkpoint"]).is_dir()
    assert [record["update"] for record in updates(directory)] == [1]
    found = {path.name for path in micro_runs.root.glob("mlflow/**/sentinels/update_000001/*")}
    assert found == {"evidence.json", "series.png", "trajectories.html"}

    resume = [sys.executable, "-m", "orchestrator.cli", "resume", str(directory)]
    went_on = subprocess.run(
        [*resume, "pipeline.sentinels.mismatch_max=0"],
        env=os.environ | {MARK: str(directory)},
        capture_output=True,
        text=True,
        check=False,
        timeout=RUN_LIMIT_S,
    )
    assert went_on.returncode == 0, went_on.stdout + went_on.stderr
    assert processes_of(directory) == []
    assert not (directory / "paused.json").exists()
    records = updates(directory)
    assert records[0].pop("alarm")["name"] == "mismatch"
    assert records == updates(whole_run)
    assert report(directory)["eval"] == report(whole_run)["eval"]
