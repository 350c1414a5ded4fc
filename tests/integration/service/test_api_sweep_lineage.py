"""A sweep in MLflow: the children's runs hang below one parent run, made when the first of them has begun."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest
from api_room import ApiRoom

from orchestrator.embedded import EmbeddedServices
from orchestrator.service.messages import State


@pytest.mark.slow
def test_children_of_a_sweep_hang_below_one_run(tmp_path: Path) -> None:
    services = EmbeddedServices(tmp_path / "servers", tmp_path / "mlflow")
    uri = services.wait_for_mlflow(services.mlflow())
    room = ApiRoom(tmp_path, mlflow_uri=uri)
    mlflow = httpx.Client(base_url=f"{uri}/api/2.0/mlflow", timeout=60.0)
    try:
        assert room.clients["nobody"].get("/readyz").json()["parts"]["mlflow"] == "ok"
        body = {"overrides": ["experiment=micro"], "grid": {"run.seed": [1, 2]}, "name": "seeds"}
        sweep = room.clients["submit"].post("/v1/sweeps", json=body).json()
        experiment = mlflow.post("experiments/create", json={"name": "micro"}).json()["experiment_id"]
        runs = []
        for child in sweep["experiments"]:
            claimed = room.store.claim(child["id"], "one", 60.0)
            assert claimed is not None
            room.store.running(child["id"], claimed.attempt)
            made = mlflow.post(
                "runs/create", json={"experiment_id": experiment, "run_name": child["id"], "start_time": 1}
            )
            runs.append(made.json()["run"]["info"]["run_id"])
            room.store.report(child["id"], claimed.attempt, kind="stage", data={}, mlflow_run=runs[-1])
        parents = [_parent(mlflow, run) for run in runs]
        assert parents[0] == parents[1]
        parent = mlflow.get("runs/get", params={"run_id": parents[0]}).json()["run"]
        tags = {tag["key"]: tag["value"] for tag in parent["data"]["tags"]}
        assert parent["info"]["run_name"] == sweep["parent"] == tags["mgrd.sweep_parent"]
        assert parent["info"]["status"] == "FINISHED" and tags["mgrd.user"] == "submiter"
        found = mlflow.post("runs/search", json={"experiment_ids": [experiment]}).json()["runs"]
        assert len(found) == 3 and room.store.counts()[State.RUNNING] == 2
    finally:
        mlflow.close()
        room.close()
        services.stop()


def _parent(mlflow: httpx.Client, run: str) -> str:
    deadline = time.monotonic() + 60.0
    while time.monotonic() < deadline:
        tags = mlflow.get("runs/get", params={"run_id": run}).json()["run"]["data"].get("tags", [])
        for tag in tags:
            if tag["key"] == "mlflow.parentRunId":
                return str(tag["value"])
        time.sleep(0.1)
    raise AssertionError(f"{run} has no parent")
