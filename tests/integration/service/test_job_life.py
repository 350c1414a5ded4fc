"""Micro experiments through a real scheduler and real Ray jobs: the whole life, and what happens when parts of it die."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from mlflow import MlflowClient
from service_room import UPDATES, ServiceRoom, alive, eventually, updates

from orchestrator.service.capacity import RayCapacity
from orchestrator.service.messages import Experiment, State, Wanted

pytestmark = [pytest.mark.slow, pytest.mark.chaos]
FREE_WITHIN_S = 20.0  # what a user is promised
MLFLOW_AWAY_S = 60.0
SPEED = ("--round-s", "0.25", "--retry-first-s", "0.5", "--lease-s", "3")


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceRoom]:
    room = ServiceRoom(tmp_path_factory.mktemp("service"))
    yield room
    room.close()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from orchestrator.datasets.acoustic_qa.build import build_acoustic_qa

    folder = tmp_path_factory.mktemp("data")
    build_acoustic_qa(folder, seed=3, train=60, held_out=20)
    return folder


@pytest.fixture(scope="module")
def whole(room: ServiceRoom, data: Path) -> Iterator[Experiment]:
    """An experiment whose scheduler was killed while it ran; the heir keeps the rest of the module going."""
    with room.scheduler("first", *SPEED) as first:
        room.submit("whole", data)
        room.until("whole", "at work", lambda e: e.progress.stage not in ("", "start"))
        driver = room.driver("whole")
        first.send_signal(signal.SIGKILL)
        first.wait(10)
    with room.scheduler("second", *SPEED):
        adopted = room.until("whole", "taken over", lambda e: e.owner == "second")
        assert adopted.attempt == 1 and alive(driver), "its job went on undisturbed"
        yield room.until_state("whole", State.SUCCEEDED)


def test_an_experiment_goes_from_queued_to_succeeded(room: ServiceRoom, whole: Experiment) -> None:
    events = room.store.events(id="whole")
    assert [event.data["state"] for event in events if event.kind == "state"] == ["starting", "running", "succeeded"]
    ended = [e.data["stage"] for e in events if e.kind == "stage" and e.data["state"] == "ended"]
    assert ended == ["sft", "evaluate_before", "select", "reinforce", "evaluate_after", "export"]
    assert [event.data["update"] for event in events if event.kind == "update"] == list(range(1, UPDATES + 1))
    assert (whole.progress.update, whole.progress.updates_total, whole.progress.stages_done) == (UPDATES, UPDATES, 6)
    assert whole.attempt == 1
    sample = room.store.samples("whole")[0]
    assert sample.update == UPDATES and sample.components and Path(sample.clips[0][1]).is_file()


def test_its_record_in_mlflow_says_whose_it_is(room: ServiceRoom, whole: Experiment) -> None:
    answer = httpx.get(f"{room.mlflow_uri}/api/2.0/mlflow/runs/get", params={"run_id": whole.mlflow_run}, timeout=30)
    run = answer.json()["run"]
    tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
    assert run["info"]["status"] == "FINISHED"
    assert (tags["mgrd.experiment"], tags["mgrd.user"], tags["team"]) == ("whole", "alice", "ears")


def test_no_password_is_shown_by_ray_or_mlflow(room: ServiceRoom, whole: Experiment) -> None:
    password = urlsplit(room.redis_url).password
    assert password
    told = json.dumps([room.api.get("/api/jobs/"), room.api.rows("jobs"), room.api.rows("runtime_envs")])
    assert whole.job in told and password not in told
    found = httpx.get(f"{room.mlflow_uri}/api/2.0/mlflow/runs/get", params={"run_id": whole.mlflow_run}, timeout=30)
    assert "cluster.redis_url" in found.text and password not in found.text
    for name in ("config.yaml", "params.json"):
        where = {"path": name, "run_uuid": whole.mlflow_run}
        kept = httpx.get(f"{room.mlflow_uri}/get-artifact", params=where, timeout=30).text
        assert "redis_url" in kept and password not in kept, name
    files = [path for path in Path(whole.run_dir).rglob("*") if path.is_file()]
    holders = [path for path in files if password.encode() in path.read_bytes()]
    assert {path.name for path in holders} == {"addresses.json", "config.yaml"}
    assert [path for path in holders if path.stat().st_mode & 0o077] == []


def test_every_component_keeps_its_own_log(whole: Experiment) -> None:
    logs = Path(whole.run_dir) / "logs"
    assert {path.name for path in logs.glob("*.log")} >= {
        "driver.log",
        "rollout-0.log",
        "trainer-0.log",
        "rewards-0.log",
    }
    assert "engine of weights version" in (logs / "rollout-0.log").read_text()


def test_nothing_is_left_of_what_has_succeeded(room: ServiceRoom, whole: Experiment) -> None:
    assert whole.state is State.SUCCEEDED
    assert eventually(lambda: not room.working(), FREE_WITHIN_S), room.working()
    assert eventually(lambda: _all_free(room), FREE_WITHIN_S)


def test_a_run_that_paused_lost_its_driver_and_mlflow_makes_the_numbers_of_one_that_was_left_alone(
    room: ServiceRoom, data: Path, whole: Experiment
) -> None:
    room.submit("shaken", data)
    room.until_update("shaken", 1)
    room.store.ask("shaken", Wanted.PAUSE, "alice")
    paused = room.until_state("shaken", State.PAUSED)
    assert paused.reason == "paused by alice"
    room.store.resume("shaken", "alice")
    further = paused.progress.update + 1
    room.until("shaken", "at work again", lambda e: e.attempt == 2 and e.progress.update >= further)
    with mlflow_away(room, MLFLOW_AWAY_S):
        room.driver("shaken").kill()
        ended = room.until_state("shaken", State.SUCCEEDED)
    assert ended.attempt == 3
    assert updates(ended) == updates(whole)
    for experiment in (whole, ended):
        assert recorded_updates(room, experiment) == list(range(1, UPDATES + 1)), "MLflow has every policy update, once"
    before, after = (json.loads((Path(e.run_dir) / "report.json").read_text()) for e in (whole, ended))
    assert after["eval"] == before["eval"]


def test_a_lost_trainer_costs_an_attempt_and_a_cancel_frees_every_process(
    room: ServiceRoom, data: Path, whole: Experiment
) -> None:
    assert whole.state is State.SUCCEEDED
    room.submit("doomed", data)
    assert eventually(lambda: bool(room.actors("TrainerWorker")), 200.0)
    room.actors("TrainerWorker")[0].send_signal(signal.SIGKILL)
    again = room.until("doomed", "tried again", lambda e: e.attempt == 2 and e.state is State.RUNNING)
    assert sum(again.retries.values()) == 1
    assert eventually(lambda: bool(room.actors("RolloutWorker") and room.actors("TrainerWorker")), 200.0)
    everything = [
        p for p in room.processes() if "ray::" in " ".join(p.cmdline()) or "service.job" in " ".join(p.cmdline())
    ]
    asked = time.monotonic()
    room.store.ask("doomed", Wanted.CANCEL, "alice")
    room.until_state("doomed", State.CANCELLED)
    assert not room.working(), "cancelled is said when nothing of it runs any more"
    assert time.monotonic() - asked < FREE_WITHIN_S
    assert everything and _all_free(room)


@contextlib.contextmanager
def mlflow_away(room: ServiceRoom, seconds: float) -> Iterator[None]:
    """MLflow answers nobody for so long, whatever happens inside."""
    servers = room.mlflow_processes()
    assert servers
    for server in servers:
        server.suspend()
    back = threading.Timer(seconds, lambda: [server.resume() for server in servers])
    back.start()
    try:
        yield
    finally:
        back.join()


def recorded_updates(room: ServiceRoom, experiment: Experiment) -> list[int]:
    """Steps at which MLflow has a reward, over the run's stages."""
    client = MlflowClient(room.mlflow_uri)
    run = client.get_run(experiment.mlflow_run)
    stages = client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")
    return sorted(
        metric.step for stage in stages for metric in client.get_metric_history(stage.info.run_id, "reward/mean")
    )


def _all_free(room: ServiceRoom) -> bool:
    return all(node.free_cpus == node.cpus for node in RayCapacity(room.api).look().nodes)


def test_the_head_takes_everything_with_it(room: ServiceRoom) -> None:
    """Last of the module: the head is stopped as `mgrd down` stops it."""
    family = room.processes()
    room.ray.stop()
    assert eventually(lambda: not any(alive(p) for p in family), FREE_WITHIN_S), [p for p in family if alive(p)]
    assert not psutil.pid_exists(room.ray.pid) or not alive(psutil.Process(room.ray.pid))
