"""The real API over a real Valkey, a client, and what schedulers and jobs would do: for tests of the clients and commands."""

from __future__ import annotations

from pathlib import Path

from page_room import ApiThread, Room
from redis_room import RedisRoom

from orchestrator import Client
from orchestrator.service.client import Run
from orchestrator.service.home import Home


class Desk:
    """api: stopped and started at will; room: acts as scheduler and job."""

    def __init__(self, folder: Path) -> None:
        self.redis = RedisRoom(folder)
        self.api = ApiThread(Home(folder / "service"), self.redis.url)
        self.room = Room(self.api.home.root, self.api.store)
        self.client = Client(self.api.url)

    def submit(self, name: str, *overrides: str) -> Run:
        """An experiment whose folder is there, as a job would make it."""
        return self.prepared(self.client.submit("demo", overrides, name=name))

    @staticmethod
    def prepared(run: Run) -> Run:
        (Path(run.experiment.run_dir) / "logs").mkdir(parents=True, exist_ok=True)
        return run

    def close(self) -> None:
        self.client.close()
        self.api.close()
        self.redis.kill()
