"""The tracker against a real MLflow server that is killed under it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient

from orchestrator import guardian
from orchestrator.embedded import EmbeddedServices
from orchestrator.spool import TrackingError
from orchestrator.tracking import Tracker, deliver_pending

pytestmark = pytest.mark.slow
RESTART_S = 300.0  # the killed server needs 8 s to be back, on a starved machine minutes


@dataclass
class Server:
    services: EmbeddedServices
    uri: str
    client: MlflowClient

    def kill(self) -> None:
        """All processes of the server at once, as a crash of it would; the services start it again by themselves."""
        assert self.services._mlflow is not None
        os.killpg(self.services._mlflow[0].pid, signal.SIGKILL)

    def wait(self) -> None:
        self.services.wait_for_mlflow(self.uri)

    def steps(self, run_id: str, metric: str) -> list[tuple[int, float]]:
        return sorted((point.step, point.value) for point in self.client.get_metric_history(run_id, metric))

    def nested(self, run_id: str):
        experiment = self.client.get_run(run_id).info.experiment_id
        return self.client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'", order_by=["start_time"])

    def artifacts(self, run_id: str, folder: str | None = None) -> set[str]:
        return {entry.path for entry in self.client.list_artifacts(run_id, folder)}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("tracked")
    with EmbeddedServices(root, root / "mlflow") as services:
        uri = services.wait_for_mlflow(services.mlflow())
        yield Server(services, uri, MlflowClient(uri, uri))
        assert services._mlflow is not None
        processes = guardian.descendants({services._mlflow[0].pid}, guardian.table())
    assert guardian.alive(processes) == {}


def test_run_is_recorded_whole(server: Server, tmp_path: Path) -> None:
    questions = tmp_path / "train.jsonl"
    questions.write_text("{}\n")
    digest = hashlib.blake2b(questions.read_bytes()).hexdigest()
    clip = tmp_path / "clip.wav"
    clip.write_bytes(b"RIFF")
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")

    tracker = Tracker(server.uri, "whole", tmp_path / "spool")
    long = "x" * 900
    run_id = tracker.start_run(
        "demo-seed7", {"actor": {"ppo": {"clip_low": 0.2}}, "prompt": long, "empty": ""}, {"mgrd.model": "tiny"}
    )
    tracker.dataset(questions, digest, "train")
    with tracker.child("reinforce") as stage:
        for update in range(1, 4):
            stage.log(update, {"reward/mean": update / 4, "lr": 1e-5})
        stage.html("trajectories/update_000003", "<audio controls></audio>")
        stage.artifact(clip, "audio/heard.wav")
        clip.unlink()  # the tracker has its own copy
    tracker.register_model(model, "mgrd-whole", {"mgrd.base": "tiny@1"})
    assert tracker.finish("FINISHED") == 0

    run = server.client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["actor.ppo.clip_low"] == "0.2"
    assert run.data.params["prompt"] == long[:500]
    whole = server.client.download_artifacts(run_id, "params.json", str(tmp_path))
    assert json.loads(Path(whole).read_text())["prompt"] == long
    (given,) = run.inputs.dataset_inputs
    assert given.dataset.name == "train"
    assert json.loads(given.dataset.profile)["digest"] == digest
    assert digest.startswith(given.dataset.digest)

    (nested,) = server.nested(run_id)
    assert (nested.info.run_name, nested.info.status) == ("reinforce", "FINISHED")
    assert server.steps(nested.info.run_id, "reward/mean") == [(1, 0.25), (2, 0.5), (3, 0.75)]
    assert server.artifacts(nested.info.run_id, "trajectories") == {"trajectories/update_000003.html"}
    assert server.artifacts(nested.info.run_id, "audio") == {"audio/heard.wav"}

    (version,) = server.client.search_model_versions("name = 'mgrd-whole'")
    assert version.run_id == run_id
    assert version.tags == {"mgrd.base": "tiny@1", "dataset.train.digest": digest}
    assert server.artifacts(run_id, "model") == {"model/config.json"}
    assert not list((tmp_path / "spool" / run_id / "staged").iterdir())


def test_failed_run_says_why_and_its_open_stage_fails_too(server: Server, tmp_path: Path) -> None:
    tracker = Tracker(server.uri, "failing", tmp_path / "spool")
    run_id = tracker.start_run("r", {}, {})
    with pytest.raises(ValueError, match="no reward"), tracker.child("select"):
        raise ValueError("no reward")
    tracker.child("reinforce").log(1, {"loss": float("nan")})
    tracker.finish("FAILED", "TrainerDied: rank 1 was killed")

    run = server.client.get_run(run_id)
    assert run.info.status == "FAILED"
    assert run.data.tags["failure.reason"] == "TrainerDied: rank 1 was killed"
    stages = {nested.info.run_name: nested for nested in server.nested(run_id)}
    assert stages["select"].data.tags["failure.reason"] == "ValueError: no reward"
    assert stages["reinforce"].info.status == "FAILED"


def test_outage_loses_no_record_and_delays_nobody(server: Server, tmp_path: Path) -> None:
    tracker = Tracker(server.uri, "outage", tmp_path / "spool")
    run_id = tracker.start_run("r", {}, {})
    given_up = Tracker(server.uri, "outage", tmp_path / "spool")
    given_up_id = given_up.start_run("given up", {}, {})
    took_s = []
    for update in range(1, 201):
        if update == 50:
            server.kill()
            stage = tracker.child("reinforce")  # created while nobody answers
        begin = time.perf_counter()
        tracker.log(update, {f"metric_{i}": float(update) for i in range(60)})
        took_s.append(time.perf_counter() - begin)
    stage.log(1, {"reward/mean": 0.5})
    stage.text("note.txt", "written in the dark")
    given_up.log(1, {"loss": 1.0})
    assert given_up.finish("FAILED", "gave up", timeout_s=0.5) > 0  # and its process ends

    assert tracker.finish("FINISHED", timeout_s=RESTART_S) == 0
    assert sorted(took_s)[180] < 0.25  # 150 calls fall into the outage: one to a dead server would wait for its limit
    for metric in ("metric_0", "metric_59"):
        assert server.steps(run_id, metric) == [(update, float(update)) for update in range(1, 201)]
    (nested,) = server.nested(run_id)
    assert server.steps(nested.info.run_id, "reward/mean") == [(1, 0.5)]
    assert server.artifacts(nested.info.run_id) == {"note.txt"}

    assert deliver_pending(server.uri, tmp_path / "spool", timeout_s=RESTART_S) == 0
    assert server.client.get_run(given_up_id).info.status == "FAILED"
    assert server.steps(given_up_id, "loss") == [(1, 1.0)]


KILLED_DRIVER = """
import os, signal, sys
from orchestrator.tracking import Tracker
tracker = Tracker(sys.argv[1], "killed", sys.argv[2])
print(tracker.start_run("r", {"seed": 1}, {}), flush=True)
stage = tracker.child("reinforce")
for update in range(1, 51):
    stage.log(update, {"reward": update / 100})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_run_resumes_with_every_step_recorded_once(server: Server, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", KILLED_DRIVER, server.uri, str(tmp_path / "spool")]
    driver = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert driver.returncode == -signal.SIGKILL, driver.stderr
    run_id = driver.stdout.strip()

    tracker = Tracker(server.uri, "killed", tmp_path / "spool")
    assert tracker.start_run("r", {"seed": 2, "added": 3}, {}, run_id=run_id) == run_id
    with tracker.child("reinforce") as stage:
        for update in range(41, 61):  # the last checkpoint was at update 40
            stage.log(update, {"reward": update / 100})
    assert tracker.finish() == 0

    (nested,) = server.nested(run_id)
    assert server.steps(nested.info.run_id, "reward") == [(update, update / 100) for update in range(1, 61)]
    assert nested.info.status == "FINISHED"
    assert server.client.get_run(run_id).data.params == {"seed": "1", "added": "3"}


def test_refused_record_is_set_aside_and_the_rest_arrives(server: Server, tmp_path: Path) -> None:
    tracker = Tracker(server.uri, "refused", tmp_path / "spool")
    run_id = tracker.start_run("r", {}, {})
    tracker.tags({"k" * 300: "the server takes keys of up to 250 characters"})
    tracker.log(1, {"loss": 2.0})
    assert tracker.finish() == 0
    assert server.steps(run_id, "loss") == [(1, 2.0)]
    (refused,) = (tmp_path / "spool" / run_id / "refused.jsonl").read_text().splitlines()
    assert json.loads(refused)["kind"] == "Tags"


def test_unknown_run_is_refused_with_its_id(server: Server, tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="nosuchrun"):
        Tracker(server.uri, "unknown", tmp_path).start_run("r", {}, {}, run_id="nosuchrun")


def test_server_that_never_answers_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match=r"http://127\.0\.0\.1:9 did not answer for 1 s"):
        Tracker("http://127.0.0.1:9", "x", tmp_path).start_run("r", {}, {}, timeout_s=1.0)


@pytest.mark.parametrize("name", ["reward/{mean}", "", "/loss", "a//b"])
def test_metric_name_the_server_would_refuse_is_refused_at_the_call(server: Server, tmp_path: Path, name: str) -> None:
    tracker = Tracker(server.uri, "names", tmp_path / "spool")
    with pytest.raises(TrackingError, match="metric name"):
        tracker.log(1, {name: 1.0})
