"""Who may do what: every route by every role, tokens that open nothing, loopback without tokens, and limits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from api_room import ROLES, ApiRoom, problem
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from redis_room import RedisRoom

from orchestrator.errors import ConfigError
from orchestrator.service.api.__main__ import allow_bind
from orchestrator.service.settings import ServiceSettings

PUBLIC = ""
ID, SHA, TOKEN = "some-000000", "a" * 64, "0" * 12
# Method and path as the app has them → the scope that is needed. A route that is not here fails the test.
MATRIX = {
    ("GET", "/healthz"): PUBLIC,
    ("GET", "/readyz"): PUBLIC,
    ("GET", "/metrics"): PUBLIC,
    ("GET", "/"): PUBLIC,
    ("GET", "/assets/{name}"): PUBLIC,
    ("POST", "/v1/experiments"): "submit",
    ("GET", "/v1/experiments"): "read",
    ("GET", "/v1/experiments/{id}"): "read",
    ("GET", "/v1/experiments/{id}/config"): "read",
    ("GET", "/v1/experiments/{id}/updates"): "read",
    ("GET", "/v1/experiments/{id}/samples"): "read",
    ("GET", "/v1/experiments/{id}/audio/{sha256}"): "read",
    ("GET", "/v1/experiments/{id}/logs"): "read",
    ("GET", "/v1/experiments/{id}/logs/components"): "read",
    ("GET", "/v1/experiments/{id}/events"): "read",
    ("GET", "/v1/events"): "read",
    ("POST", "/v1/experiments/{id}:cancel"): "submit",
    ("POST", "/v1/experiments/{id}:pause"): "submit",
    ("POST", "/v1/experiments/{id}:resume"): "submit",
    ("POST", "/v1/experiments/{id}:clone"): "submit",
    ("POST", "/v1/sweeps"): "submit",
    ("GET", "/v1/compare"): "read",
    ("PUT", "/v1/code/{sha256}"): "submit",
    ("HEAD", "/v1/code/{sha256}"): "read",
    ("GET", "/v1/me"): "read",
    ("GET", "/v1/tokens"): "admin",
    ("POST", "/v1/tokens"): "admin",
    ("DELETE", "/v1/tokens/{id}"): "admin",
    ("GET", "/v1/audit"): "admin",
    ("GET", "/v1/cluster"): "read",
    ("GET", "/v1/queue"): "read",
    ("POST", "/v1/score"): "submit",
    ("GET", "/v1/rewards"): "read",
    ("GET", "/v1/rewards/{name}"): "read",
}


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiRoom]:
    running = ApiRoom(tmp_path_factory.mktemp("api"))
    yield running
    running.close()


def scopes(dependant: Dependant) -> set[str]:
    found = {scope} if (scope := getattr(dependant.call, "scope", "")) else set()
    return found.union(*(scopes(one) for one in dependant.dependencies))


def test_every_route_asks_for_the_scope_that_is_written_here(room: ApiRoom) -> None:
    found = {}
    for route in room.app.routes:
        if isinstance(route, APIRoute):
            asked = scopes(route.dependant)
            assert len(asked) <= 1
            for method in (route.methods or set()) - ({"HEAD"} if "GET" in (route.methods or set()) else set()):
                found[(method, route.path)] = next(iter(asked), PUBLIC)
    assert found == MATRIX


@pytest.mark.parametrize("role", ["nobody", "forged", *ROLES])
def test_every_role_reaches_what_its_scope_allows_and_nothing_else(room: ApiRoom, role: str) -> None:
    held = ROLES[: ROLES.index(role) + 1] if role in ROLES else ()
    forged = httpx.Client(base_url=room.url, headers={"Authorization": f"Bearer mgrd_{TOKEN}_{'x' * 43}"})
    client = forged if role == "forged" else room.clients[role]
    wrong = {}
    for (method, path), scope in MATRIX.items():
        if path in ("/v1/events", "/v1/score", "/readyz") and (scope == PUBLIC or scope in held):
            continue  # streams without end, starts processes: other tests reach them
        where = path.format(id=TOKEN if "tokens" in path else ID, sha256=SHA, name="x")
        status = client.request(method, where).status_code
        refusals = (
            set() if scope == PUBLIC or scope in held else {403} if held else {401, 429}
        )  # 429: guessing is slowed
        if status not in refusals if refusals else status in (401, 403, 429):
            wrong[(method, path)] = status
    assert wrong == {}


def test_a_token_opens_until_it_expires_or_is_revoked_and_never_revokes_itself(room: ApiRoom) -> None:
    admin = room.clients["admin"]
    made = admin.post("/v1/tokens", json={"name": "laptop", "user": "ann", "scope": "submit", "expires_s": 3600}).json()
    ann = httpx.Client(base_url=room.url, headers={"Authorization": f"Bearer {made['secret']}"})
    assert ann.get("/v1/me").json() == {"name": "ann", "scopes": ["read", "submit"], "token": made["token"]["id"]}
    listed = admin.get("/v1/tokens")
    assert (
        made["token"]["id"] in listed.text
        and made["secret"] not in listed.text
        and made["secret"].split("_", 2)[2] not in listed.text
    )
    assert admin.delete(f"/v1/tokens/{made['token']['id']}").status_code == 204
    assert problem(ann.get("/v1/me"), 401) == ("header.Authorization", "the token was revoked")
    assert ann.get("/v1/me").headers["www-authenticate"] == "Bearer"
    assert "you use" in problem(admin.delete(f"/v1/tokens/{admin.get('/v1/me').json()['token']}"), 409)[1]
    assert "there is no token" in problem(admin.delete(f"/v1/tokens/{TOKEN}"), 404)[1]


def test_guessing_tokens_is_slowed_down_and_leaves_others_alone(tmp_path: Path, room: ApiRoom) -> None:
    guessing = ApiRoom(tmp_path, redis=room.redis)
    try:
        answers = [guessing.clients["nobody"].get("/v1/me") for _ in range(40)]
        assert {answer.status_code for answer in answers} == {401, 429}
        assert answers[-1].headers["retry-after"] == "1"
        assert guessing.clients["read"].get("/v1/me").status_code == 200
    finally:
        guessing.close()


def test_without_a_token_only_this_machine_is_answered_until_the_first_one_is_made(tmp_path: Path) -> None:
    room = ApiRoom(tmp_path, tokens=False)
    try:
        client = room.clients["nobody"]
        me = client.get("/v1/me").json()
        assert me["scopes"] == ["read", "submit", "admin"] and me["token"] == ""
        for origin in ("https://evil.example", "http://localhost:1", "null"):
            sent = {"Origin": origin, "Content-Type": "text/plain"}  # what a browser sends for any page, unasked
            field, message = problem(client.post("/v1/experiments/a-1:cancel", headers=sent), 403)
            assert field == "header.Origin" and "another site" in message
        assert client.get("/v1/me", headers={"Origin": str(client.base_url).rstrip("/")}).status_code == 200
        field, message = problem(client.get("/v1/me", headers={"Host": "evil.example"}), 403)
        assert field == "header.Host" and "localhost only" in message
        assert (
            "first token must have the scope admin" in problem(client.post("/v1/tokens", json={"user": "ann"}), 422)[1]
        )
        with pytest.raises(ConfigError, match="no token exists, so anybody could run code here"):
            allow_bind(ServiceSettings(host="0.0.0.0"), room.tokens)
        allow_bind(ServiceSettings(host="127.0.0.1"), room.tokens)
        secret = client.post("/v1/tokens", json={"user": "ann", "scope": "admin"}).json()["secret"]
        assert problem(client.get("/v1/me"), 401)[1] == "a token is needed"
        assert client.get("/v1/me", headers={"Authorization": f"Bearer {secret}"}).json()["name"] == "ann"
        allow_bind(ServiceSettings(host="0.0.0.0"), room.tokens)
    finally:
        room.close()


def test_sizes_rates_and_shares_are_limited_one_caller_at_a_time(tmp_path: Path, room: ApiRoom) -> None:
    narrow = ApiRoom(
        tmp_path, redis=RedisRoom(tmp_path), rate_per_s=1.0, rate_burst=8, max_body_mb=0.01, quota_queued=2
    )
    try:
        submit = narrow.clients["submit"]
        large = submit.post("/v1/experiments", json={"overrides": ["x" * 20_000]})
        assert problem(large, 413) == ("body", "the body is larger than 10485 bytes")
        pieces = submit.post("/v1/experiments", content=(b"x" * 1000 for _ in range(20)))
        assert problem(pieces, 413)[1] == "the body is larger than 10485 bytes"
        for _ in range(2):
            narrow.submit("experiment=micro")
        full = submit.post("/v1/experiments", json={"overrides": ["experiment=micro"]})
        assert (
            problem(full, 429)[1] == "submiter has 2 experiments waiting, the limit is 2"
            and full.headers["retry-after"] == "60"
        )
        answers = [submit.get("/v1/me") for _ in range(8)]
        assert answers[-1].status_code == 429 and answers[-1].headers["retry-after"] == "1"
        assert "more than 1 requests a second" in problem(answers[-1], 429)[1]
        assert narrow.clients["read"].get("/v1/me").status_code == 200
    finally:
        narrow.close()
        narrow.redis.kill()
