"""The reward service over HTTP: a real server, real scoring processes, a real registry."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import uvicorn
from redis_room import RedisRoom, free_port

from rewards import PublishedStore, RewardError
from rewards.http import create_app
from rewards.http_api import HttpSettings
from rewards.http_pool import ScoringPool
from rewards.lab import bundle_file

QUESTION = {"prompt": "What is heard?", "answer": "dog", "answer_kind": "choice", "choices": ["dog", "owl"]}
RIGHT = {"question": QUESTION, "response": "<think>\nI hear a bark.\n</think>\nA"}
WRONG = {"question": QUESTION, "response": "owl"}
REWARD = """
import time
from rewards import reward

@reward("mine")
def mine(sample, *, seconds: float = 0.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return 0.5
"""


class Rewards:
    """A running server, and a client that knows it."""

    def __init__(self, pool: ScoringPool, settings: HttpSettings, store: Any) -> None:
        port = free_port()
        app = create_app(pool, open_store=store, settings=settings)
        self.server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
        self.thread = threading.Thread(target=self.server.run)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30.0)
        self.thread.start()
        deadline = time.monotonic() + 60.0
        while not self.server.started and time.monotonic() < deadline:
            time.sleep(0.02)
        assert self.server.started

    def score(self, terms: list[Any], samples: list[Any], **more: Any) -> httpx.Response:
        return self.client.post("/v1/score", json={"terms": terms, "samples": samples} | more)

    def stop(self) -> None:
        self.client.close()
        self.server.should_exit = True
        self.thread.join(30.0)
        assert not self.thread.is_alive()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PublishedStore]:
    folder = tmp_path_factory.mktemp("registry")
    room = RedisRoom(folder)
    store = PublishedStore.from_url(room.url, folder / "bundles")
    yield store
    store.close()
    room.kill()


@pytest.fixture(scope="module")
def published(registry: PublishedStore, tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("mine") / "mine.py"
    file.write_text(REWARD)
    return registry.publish(bundle_file(f"{file}:mine"), tag="stable")


@pytest.fixture(scope="module")
def rewards(registry: PublishedStore, published: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rewards]:
    @contextmanager
    def opened() -> Iterator[PublishedStore]:
        yield registry

    clips = tmp_path_factory.mktemp("clips")
    running = Rewards(
        ScoringPool(2, max_waiting=500), HttpSettings(max_samples=400, max_body_mb=1, clips=clips), opened
    )
    yield running
    running.stop()


def problem(response: httpx.Response, status: int) -> tuple[str, str]:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    return error["field"], error["message"]


def test_samples_get_verdicts_with_components_and_versions(rewards: Rewards) -> None:
    answer = rewards.score(
        [{"name": "answer", "weight": 0.8}, {"name": "think_present", "weight": 0.2}], [RIGHT, WRONG]
    )
    body = answer.raise_for_status().json()
    assert [verdict["score"] for verdict in body["verdicts"]] == [1.0, 0.0]
    first = body["verdicts"][0]
    assert first["components"] == {"answer": 1.0, "think_present": 1.0} and set(first["seconds"]) == set(
        first["components"]
    )
    assert first["id"] == "samples[0]" and first["valid"] and first["reason"] == ""
    assert set(body["versions"]) == {"answer", "think_present"} and body["versions"]["answer"].startswith("sha256:")


def test_what_can_not_be_scored_is_invalid_with_a_reason_in_a_200(rewards: Rewards) -> None:
    odd = {"question": QUESTION | {"answer": "cat"}, "response": "A", "id": "odd"}
    verdict = rewards.score(["answer"], [odd]).raise_for_status().json()["verdicts"][0]
    assert (verdict["id"], verdict["valid"], verdict["score"]) == ("odd", False, None)
    assert "'cat' is none of the options" in verdict["reason"]


def test_a_published_version_is_used_by_tag_hash_and_with_parameters(rewards: Rewards, published: str) -> None:
    for term in ("mine@stable", f"mine@{published}", {"name": "mine", "version": published[:19]}):
        body = rewards.score([term], [RIGHT]).raise_for_status().json()
        assert body["verdicts"][0]["score"] == 0.5 and body["versions"] == {"mine": published}
    changed = rewards.score([{"name": "mine", "version": "stable", "parameters": {"seconds": 0.01}}], [RIGHT])
    assert changed.raise_for_status().json()["versions"]["mine"] != published


def test_a_hang_costs_its_limit_and_its_own_verdict_only(rewards: Rewards) -> None:
    slow = {"name": "mine", "version": "stable", "parameters": {"seconds": 60.0}}
    began = time.monotonic()
    body = rewards.score([slow], [RIGHT], timeout_s=0.5).raise_for_status().json()
    assert time.monotonic() - began < 20.0
    assert "timed out after 0.5 s" in body["verdicts"][0]["reason"]
    assert rewards.score(["mine@stable"], [RIGHT]).json()["verdicts"][0]["score"] == 0.5


def test_order_is_kept_over_many_samples_and_many_callers(rewards: Rewards) -> None:
    samples = [RIGHT if i % 3 else WRONG for i in range(100)]

    def one(_: int) -> list[float]:
        return [verdict["score"] for verdict in rewards.score(["answer"], samples).json()["verdicts"]]

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(one, range(4))) == [[float(i % 3 > 0) for i in range(100)]] * 4


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({"terms": ["answer"]}, "samples", "required"),
        ({"samples": [RIGHT]}, "terms", "required"),
        ({"terms": [], "samples": [RIGHT]}, "terms", "at least 1"),
        ({"terms": ["answer"], "samples": []}, "samples", "at least 1"),
        ({"terms": ["answer"], "samples": [RIGHT], "sample": 1}, "sample", "not permitted"),
        ({"terms": ["answer", {"name": "format", "wieght": 1}], "samples": [RIGHT]}, "terms[1].wieght", "not permitted"),
        ({"terms": [{"name": "answer", "modality": "video"}], "samples": [RIGHT]}, "terms[0].modality", "'audio'"),
        ({"terms": ["format", "answr"], "samples": [RIGHT]}, "terms[1]", "did you mean 'answer'"),
        ({"terms": ["mine@nothing"], "samples": [RIGHT]}, "terms[0]", "no tag mine@nothing"),
        ({"terms": [{"name": "think_length", "parameters": {"low": 9, "high": 3}}], "samples": [RIGHT]}, "terms[0]", "low=9"),
        ({"terms": ["answer", "answer"], "samples": [RIGHT]}, "terms", "counts twice"),
        ({"terms": ["answer"], "samples": [RIGHT, {"response": "A"}]}, "samples[1].question", "missing"),
        ({"terms": ["answer"], "samples": [RIGHT | {"question": QUESTION | {"answer": 3}}]}, "samples[0].question.answer", "text"),
        ({"terms": ["answer"], "samples": [RIGHT], "timeout_s": 0}, "timeout_s", "greater than 0"),
    ],
)  # fmt: skip
def test_a_request_that_can_not_be_served_is_told_the_field(
    rewards: Rewards, body: dict[str, Any], field: str, message: str
) -> None:
    found, text = problem(rewards.client.post("/v1/score", json=body), 422)
    assert found == field and message in text


def test_sizes_are_limited(rewards: Rewards) -> None:
    assert problem(rewards.score(["answer"], [WRONG] * 401), 413)[0] == "samples"
    large = json.dumps({"terms": ["answer"], "samples": [RIGHT | {"response": "x" * (1 << 20)}]}).encode()
    assert problem(rewards.client.post("/v1/score", content=large), 413)[0] == "body"

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(large), 1 << 16):
            yield large[start : start + (1 << 16)]

    assert problem(rewards.client.post("/v1/score", content=pieces()), 413)[0] == "body"
    assert problem(rewards.client.post("/v1/score", content=b"{"), 422)[0] == "body"


def test_recordings_are_read_below_the_allowed_folder_only(rewards: Rewards) -> None:
    for path in ("/etc/passwd", "../secret.wav", "a/../../secret.wav"):
        asked = RIGHT | {"question": QUESTION | {"audio": [{"path": path}]}}
        field, message = problem(rewards.score(["answer"], [asked]), 422)
        assert field == "samples[0].question.audio[0].path" and "outside" in message
        history = [{"role": "human", "text": "Listen.", "audio": [{"path": path}]}]
        asked = RIGHT | {"question": QUESTION | {"history": history}}
        field, message = problem(rewards.score(["answer"], [asked]), 422)
        assert field == "samples[0].question.history[0].audio[0].path" and "outside" in message
    inside = RIGHT | {"question": QUESTION | {"audio": [{"path": "a.wav"}]}}
    assert rewards.score(["answer"], [inside]).raise_for_status().json()["verdicts"][0]["score"] == 1.0


def test_too_much_at_once_is_refused_at_once(rewards: Rewards) -> None:
    slow = {"name": "mine", "version": "stable", "parameters": {"seconds": 0.02}}
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(rewards.score, [slow], [WRONG] * 200)
        while rewards.client.get("/readyz").json()["waiting_samples"] == 0:
            time.sleep(0.01)
        response = rewards.score(["answer"], [WRONG] * 400)
        assert "try again" in problem(response, 503)[1] and response.headers["retry-after"]
        assert len(first.result().json()["verdicts"]) == 200


def test_rewards_are_listed_and_looked_up(rewards: Rewards, published: str) -> None:
    everything = rewards.client.get("/v1/rewards").raise_for_status().json()
    installed = {reward["name"]: reward for reward in everything["installed"]}
    assert installed["think_length"]["parameters"]["low"] == 8 and installed["answer"]["version"].startswith("sha256:")
    found = rewards.client.get("/v1/rewards/mine").raise_for_status().json()
    assert [(line["hash"], line["tags"]) for line in found["published"]] == [(published, ["stable"])]
    assert problem(rewards.client.get("/v1/rewards/nothing"), 404)[0] == "name"
    assert problem(rewards.client.get("/v2/rewards"), 404) == ("", "Not Found")


def test_the_server_says_that_it_runs_is_ready_and_what_it_did(rewards: Rewards) -> None:
    assert rewards.client.get("/healthz").json() == {"status": "ok"}
    assert rewards.client.get("/readyz").json()["status"] == "ready"
    rewards.score(["answer"], [RIGHT])
    metrics = rewards.client.get("/metrics").text
    assert 'mgrd_rewards_requests_total{status="200"}' in metrics and 'reward_scored_total{reward="answer"}' in metrics
    page = rewards.client.get("/openapi.json").json()
    assert {"/v1/score", "/v1/rewards", "/v1/rewards/{name}", "/healthz", "/readyz"} <= set(page["paths"])
    assert page["components"]["schemas"]["ScoreRequest"]["examples"][0]["terms"][0]["name"] == "answer"
    assert rewards.client.get("/docs").status_code == 200


def test_a_token_is_asked_for_where_one_is_set_and_nothing_stays_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RewardError, match="REWARDS_TOKEN"):
        create_app(ScoringPool(1), settings=HttpSettings(token_secret="REWARDS_TOKEN"))
    monkeypatch.setenv("REWARDS_TOKEN", "open sesame please")
    before = {child.pid for child in psutil.Process().children()}
    running = Rewards(ScoringPool(1), HttpSettings(token_secret="REWARDS_TOKEN"), None)
    try:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "open sesame please"}):
            response = running.client.post("/v1/score", json={"terms": ["answer"], "samples": [RIGHT]}, headers=headers)
            assert problem(response, 401)[0] == "header.Authorization"
            assert running.client.get("/v1/rewards", headers=headers).status_code == 401
        allowed = {"Authorization": "Bearer open sesame please"}
        assert running.client.get("/v1/rewards", headers=allowed).json()["published"] == []
        scored = running.client.post("/v1/score", json={"terms": ["answer"], "samples": [RIGHT]}, headers=allowed)
        assert scored.json()["verdicts"][0]["score"] == 1.0
        assert running.client.get("/readyz").status_code == 200
        assert {child.pid for child in psutil.Process().children()} > before
    finally:
        running.stop()
    assert {child.pid for child in psutil.Process().children()} == before


def test_a_server_that_can_not_score_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "no-python"))
    running = Rewards(ScoringPool(1), HttpSettings(), None)
    try:
        assert "no-python" in problem(running.client.get("/readyz"), 503)[1]
        assert running.client.get("/healthz").status_code == 200
    finally:
        running.stop()
