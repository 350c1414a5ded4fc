"""A running API on a real Valkey, for tests: the app under uvicorn in a thread, a client for each role."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from redis_room import RedisRoom

from orchestrator.service.api.app import create_app
from orchestrator.service.capacity import Cluster
from orchestrator.service.home import Home
from orchestrator.service.placement import Node
from orchestrator.service.settings import ServiceSettings
from orchestrator.service.store import Store
from orchestrator.service.tokens import TokenStore

ROLES = ("read", "submit", "admin")
CLUSTER = Cluster((Node.empty("big", cpus=16.0, gpus=2.0, memory_gib=64.0), Node.empty("small", cpus=4.0)))


class ApiRoom:
    """redis: of another room, else one of its own; tokens: whether there is one a role (`users` tells who)."""

    def __init__(self, folder: Path, *, redis: RedisRoom | None = None, tokens: bool = True, **settings: Any) -> None:
        self.redis = redis or RedisRoom(_made(folder / "redis"))
        self.own_redis = redis is None
        self.home = Home(folder / "service")
        self.home.make()
        self.data = _made(folder / "data")
        self.settings = ServiceSettings(
            **{
                "redis_url": self.redis.url,
                "allowed_roots": (str(self.data),),
                "rate_per_s": 5000.0,
                "rate_burst": 10_000,
                **settings,
            }
        )
        self.store = Store.from_url(self.redis.url, patience_s=2.0)
        self.tokens = TokenStore.from_url(self.redis.url, patience_s=2.0)
        self.secrets = {role: self.tokens.create(role, f"{role}er", role)[1] for role in ROLES} if tokens else {}
        self.app = create_app(self.settings, self.store, self.tokens, home=self.home, look=lambda: CLUSTER, scorers=1)
        listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        config = uvicorn.Config(self.app, log_level="warning", timeout_graceful_shutdown=1)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listening]})
        self.thread.start()
        deadline = time.monotonic() + 60.0
        while not self.server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        assert self.server.started
        self.clients = {role: self.client(role) for role in (*self.secrets, "nobody")}

    def client(self, role: str) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.secrets[role]}"} if role in self.secrets else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60.0)

    def submit(self, *overrides: str, role: str = "submit", key: str = "", **more: Any) -> dict[str, Any]:
        answer = self.clients[role].post(
            "/v1/experiments",
            json={"overrides": list(overrides or ("experiment=micro",)), **more},
            headers={"Idempotency-Key": key} if key else {},
        )
        assert answer.status_code in (200, 201), answer.text
        found: dict[str, Any] = answer.json()
        return found

    def close(self) -> None:
        for client in self.clients.values():
            client.close()
        self.server.should_exit = True
        self.thread.join(30.0)
        assert not self.thread.is_alive()
        self.store.close()
        self.tokens.close()
        if self.own_redis:
            self.redis.kill()


def problem(answer: httpx.Response, status: int) -> tuple[str, str]:
    """(field, message) of a refusal."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "field", "hint"}
    return error["field"], error["message"]


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
