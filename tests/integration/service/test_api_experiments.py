"""Experiments over HTTP: submitted once, found, changed by whom they belong to, cloned, swept, compared; and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from api_room import ApiRoom, problem

from orchestrator.config.compose import compose_config, to_yaml
from orchestrator.service.messages import Cause, State


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiRoom]:
    running = ApiRoom(tmp_path_factory.mktemp("api"))
    yield running
    running.close()


def test_an_experiment_is_taken_with_what_it_needs_and_what_reruns_it(room: ApiRoom) -> None:
    made = room.submit("experiment=micro", "run.seed=5", name="first", priority="high", tags={"team": "audio"})
    assert (made["state"], made["user"], made["priority"], made["tags"]) == (
        "queued",
        "submiter",
        "high",
        {"team": "audio"},
    )
    assert made["id"].startswith("first-") and made["run_dir"] == str(room.home.run_dir(made["id"]))
    assert len(made["demand"]["bundles"]) == 2
    client = room.clients["read"]
    assert client.get(f"/v1/experiments/{made['id']}").json() == made
    config = client.get(f"/v1/experiments/{made['id']}/config").json()
    assert config["yaml"] == to_yaml(compose_config(["experiment=micro", "run.seed=5"]))
    assert config["flat"]["run.seed"] == "5"
    for query in ("tag=team:audio", "user=submiter&state=queued", "state=queued&state=running"):
        assert made["id"] in [one["id"] for one in client.get(f"/v1/experiments?{query}").json()["experiments"]]
    assert client.get("/v1/experiments?tag=team:video").json() == {"experiments": []}


def test_a_key_submits_once_also_when_asked_by_many_at_once(room: ApiRoom) -> None:
    with ThreadPoolExecutor(4) as threads:
        asked = list(threads.map(lambda _: room.clients["submit"].post(
            "/v1/experiments", json={"overrides": ["experiment=micro"]}, headers={"Idempotency-Key": "once"}), range(4)))  # fmt: skip
    assert sorted(answer.status_code for answer in asked) == [200, 200, 200, 201]
    assert len({answer.json()["id"] for answer in asked}) == 1
    other = room.clients["submit"].post(
        "/v1/experiments", json={"overrides": ["experiment=demo"]}, headers={"Idempotency-Key": "once"}
    )
    field, message = problem(other, 409)
    assert field == "header.Idempotency-Key" and asked[0].json()["id"] in message
    assert room.submit("experiment=demo", role="admin", key="once")["user"] == "adminer"  # a key is its user's own


# What is documented in docs/SERVICE.md: path, body, status, field, message.
SHA = "0" * 64
BAD: list[tuple[str, Any, int, str, str]] = [
    ("experiments", {"overrides": ["experiment=dmo"]}, 422, "overrides[0]", "there is no experiment named 'dmo'; did you mean 'demo'?"),
    ("experiments", {"overrides": ["run.sead=1"]}, 422, "overrides[0]", "unknown configuration key 'run.sead'; did you mean run.seed"),
    ("experiments", {"overrides": ["run.dir=/x"]}, 422, "overrides[0]", "'run.dir=/x': run.dir is set by the service"),
    ("experiments", {"overrides": ["run.seed=1,2"]}, 422, "overrides[0]", "'run.seed=1,2' has several values"),
    ("experiments", {"overrides": ["run.name=${oc.env:HOME}"]}, 422, "overrides[0]", "interpolations (${…}) are not taken"),
    ("experiments", {"overrides": ["data.train=/etc/passwd"]}, 422, "overrides", "data.train: /etc/passwd is outside the folders"),
    ("experiments", {"overrides": ["actor.device=cuda", "actor.world_size=4", "actor.tensor_parallel=4"]}, 422, "overrides",
     "this plan can never run here: it asks for 5 GPUs"),
    ("experiments", {"overrides": "demo"}, 422, "overrides", "Input should be a valid list"),
    ("experiments", {"override": []}, 422, "override", "Extra inputs are not permitted"),
    ("experiments", {"priority": "urgent"}, 422, "priority", "Input should be 'low', 'normal' or 'high'"),
    ("experiments", {"name": "../up"}, 422, "name", "String should match pattern"),
    ("experiments", {"code": SHA}, 422, "code", f"no code {SHA} was uploaded"),
    ("experiments", {"tags": {"a": "\n"}}, 422, "tags.a", "String should match pattern"),
    ("experiments", "{", 422, "body", "JSON decode error"),
    ("experiments/nobody-000000:cancel", None, 404, "id", "there is no experiment 'nobody-000000'"),
    ("experiments/..%2Fup:cancel", None, 404, "", "Not Found"),
    ("sweeps", {"overrides": []}, 422, "grid", "a sweep has a grid or a list, one of the two"),
    ("sweeps", {"grid": {"run.seed": []}}, 422, "grid.run.seed", "a grid needs values for every key"),
    ("sweeps", {"grid": {"run.seed": list(range(300))}}, 422, "grid", "300 combinations, the limit is 256"),
    ("sweeps", {"list": [["run.seed=1"], ["run.sead=1"]]}, 422, "list[1][0]", "unknown configuration key 'run.sead'"),
    ("nothing", {}, 404, "", "Not Found"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "body", "status", "field", "message"), BAD, ids=[f"{row[0]}-{row[4][:30]}" for row in BAD]
)
def test_bad_input_is_refused_with_its_field_and_changes_nothing(
    room: ApiRoom, path: str, body: Any, status: int, field: str, message: str
) -> None:
    before = room.store.counts()
    content = body if isinstance(body, str) else json.dumps(body) if body is not None else ""
    answer = room.clients["submit"].post(f"/v1/{path}", content=content, headers={"Content-Type": "application/json"})
    found, said = problem(answer, status)
    assert found == field and message in said
    assert room.store.counts() == before


def test_what_waits_is_cancelled_at_once_and_resumed_with_changes(room: ApiRoom) -> None:
    made = room.submit("experiment=micro")
    client, path = room.clients["submit"], f"/v1/experiments/{made['id']}"
    assert "cancel it" in problem(client.post(f"{path}:pause"), 409)[1]
    assert client.post(f"{path}:cancel").json()["state"] == "cancelled"
    assert (
        "has drawn from its seed" in problem(client.post(f"{path}:resume", json={"overrides": ["run.seed=1"]}), 422)[1]
    )
    resumed = client.post(f"{path}:resume", json={"overrides": ["actor.actor_optim.lr=1e-6"]}).json()
    assert resumed["state"] == "queued" and resumed["overrides"] == ["experiment=micro", "actor.actor_optim.lr=1e-6"]
    assert client.get(f"{path}/config").json()["flat"]["actor.actor_optim.lr"] == "1e-06"
    assert "can be resumed" in problem(client.post(f"{path}:resume"), 409)[1]


def test_what_runs_is_asked_and_goes_on_until_its_scheduler_has_done_it(room: ApiRoom) -> None:
    made = room.submit("experiment=micro")
    claimed = room.store.claim(made["id"], "one", 30.0)
    assert claimed is not None
    asked = room.clients["submit"].post(f"/v1/experiments/{made['id']}:cancel").json()
    assert (asked["state"], asked["wanted"]) == ("starting", "cancel")
    room.store.settle(made["id"], claimed.lease, State.CANCELLED, reason="asked", cause=Cause.USER)
    assert room.clients["read"].get(f"/v1/experiments/{made['id']}").json()["state"] == "cancelled"


def test_only_its_user_or_an_admin_changes_an_experiment_and_the_audit_log_tells(room: ApiRoom) -> None:
    mine = room.submit("experiment=micro", role="admin")
    for deed in ("cancel", "pause", "resume"):
        field, message = problem(room.clients["submit"].post(f"/v1/experiments/{mine['id']}:{deed}"), 403)
        assert field == "id" and message == f"{mine['id']} belongs to adminer; you are submiter"
    theirs = room.submit("experiment=micro")
    assert (
        room.clients["admin"].post(f"/v1/experiments/{theirs['id']}:cancel").json()["reason"] == "cancelled by adminer"
    )
    lines = room.clients["admin"].get("/v1/audit").json()["entries"]
    told = {(line["by"], line["deed"], line["target"], line["outcome"].split(":")[0]) for line in lines}
    assert ("submiter", "cancel", mine["id"], "refused") in told and ("adminer", "cancel", theirs["id"], "done") in told


def test_a_clone_begins_anew_with_the_same_configuration_as_its_callers_own(room: ApiRoom) -> None:
    source = room.submit("experiment=micro", "run.seed=9", tags={"a": "b"})
    client = room.clients["admin"]
    clone = client.post(f"/v1/experiments/{source['id']}:clone").json()
    assert (clone["user"], clone["cloned_from"], clone["config_sha256"]) == (
        "adminer",
        source["id"],
        source["config_sha256"],
    )
    changed = client.post(
        f"/v1/experiments/{source['id']}:clone", json={"overrides": ["run.seed=10"], "name": "again"}
    ).json()
    assert changed["id"].startswith("again-")
    found = client.get(f"/v1/compare?a={source['id']}&b={changed['id']}").json()
    assert found["config"] == [{"key": "run.seed", "a": "9", "b": "10"}]


def test_a_sweep_is_every_combination_under_one_parent_and_repeats_itself_by_its_key(room: ApiRoom) -> None:
    body = {
        "overrides": ["experiment=micro"],
        "grid": {"run.seed": [1, 2], "actor.actor_optim.lr": ["1e-5", 1e-6]},
        "name": "lr",
    }
    made = room.clients["submit"].post("/v1/sweeps", json=body, headers={"Idempotency-Key": "sweep"})
    assert made.status_code == 201
    children = made.json()["experiments"]
    assert [child["overrides"][1:] for child in children] == [
        [f"run.seed={seed}", f"actor.actor_optim.lr={lr}"] for seed in (1, 2) for lr in ("1e-5", "1e-06")
    ]
    again = room.clients["submit"].post("/v1/sweeps", json=body, headers={"Idempotency-Key": "sweep"})
    assert (again.status_code, again.json()) == (200, made.json())
    listed = room.clients["read"].get(f"/v1/experiments?parent={made.json()['parent']}").json()["experiments"]
    assert {child["id"] for child in listed} == {child["id"] for child in children}
    problem(
        room.clients["admin"].post("/v1/experiments", json={"overrides": ["experiment=micro"], "parent": "x y"}), 422
    )


def test_two_runs_are_compared_by_what_they_wrote(room: ApiRoom) -> None:
    one, two = room.submit("experiment=micro"), room.submit("experiment=micro", "run.seed=3")
    for made, reward in ((one, 0.25), (two, 0.5)):
        folder = room.home.run_dir(made["id"])
        folder.mkdir(parents=True)
        lines = [
            json.dumps({"update": n, "stage": "rl", "metrics": {"reward/mean": reward, "note": "x"}}) for n in (1, 2)
        ]
        (folder / "updates.jsonl").write_text("\n".join([*lines, '{"update": 3, "sta']))
    found = room.clients["read"].get(f"/v1/compare?a={one['id']}&b={two['id']}").json()
    assert {"name": "last/reward/mean", "a": 0.25, "b": 0.5} in found["metrics"]
    updates = room.clients["read"].get(f"/v1/experiments/{one['id']}/updates?after=1").json()["updates"]
    assert updates == [{"update": 2, "stage": "rl", "at": 0.0, "metrics": {"reward/mean": 0.25}}]


def test_the_cluster_and_the_parts_are_shown(room: ApiRoom) -> None:
    found = room.clients["read"].get("/v1/cluster").json()
    assert [node["id"] for node in found["nodes"]] == ["big", "small"] and found["total"]["gpus"] == 2.0
    assert found["queued"] == room.store.counts()[State.QUEUED] and found["demand"]["cpus"] >= 2 * found["queued"]
    ready = room.clients["nobody"].get("/readyz")
    assert ready.status_code == 503
    parts = ready.json()["parts"]
    assert parts["redis"] == "ok" and "none has ever decided" in parts["scheduler"] and "no address" in parts["mlflow"]
    text = room.clients["nobody"].get("/metrics").text
    queued = room.store.counts()[State.QUEUED]
    assert (
        f'mgrd_experiments{{state="queued"}} {float(queued)}' in text and 'mgrd_queue_length{priority="high"}' in text
    )
    assert 'mgrd_http_request_seconds_count{method="POST",route="/v1/experiments",status="2xx"}' in text
    assert "submiter" not in text and "micro-" not in text  # labels are bounded
