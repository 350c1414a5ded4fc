"""Sweeps in MLflow: one parent run a sweep, made when the first child has a run, and every child hung below it.

Neighbours: `app` keeps one of these; jobs create the children's runs by themselves. Invariants: nothing waits for MLflow, and its being
away only delays; doing it again changes nothing (the parent is found by its tag).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from typing import Any

import httpx
from fastapi.concurrency import run_in_threadpool

from orchestrator.errors import MgrdError
from orchestrator.service.messages import Event, Experiment
from orchestrator.service.store import Store

log = logging.getLogger(__name__)
TAG = "mgrd.sweep_parent"
KEPT = 10_000  # children that are known to be done; a forgotten one is only hung up once more
PAUSE_S = 15.0  # after MLflow or Redis was away
TIMEOUT_S = 10.0


class SweepLineage:
    """uri: of MLflow, "" for none. `hear` gets every event; `run` does the work."""

    def __init__(self, store: Store, uri: str) -> None:
        self._store, self._uri = store, uri.rstrip("/")
        self._waiting: asyncio.Queue[str] = asyncio.Queue(KEPT)
        self._done: OrderedDict[str, None] = OrderedDict()
        self._parents: dict[tuple[str, str], str] = {}

    def hear(self, event: Event) -> None:
        """Looks at an experiment once it reports that it works; those that began while the API was away come with their next stage."""
        if self._uri and event.kind in ("stage", "update", "note") and event.experiment not in self._done:
            self._mark(event.experiment)
            if not self._waiting.full():
                self._waiting.put_nowait(event.experiment)

    async def run(self) -> None:
        async with httpx.AsyncClient(base_url=self._uri, timeout=TIMEOUT_S, trust_env=False) as client:
            while True:
                id = await self._waiting.get()
                try:
                    experiment = await run_in_threadpool(self._store.get, id)
                    if experiment.parent and not await self._hang(client, experiment):
                        self._done.pop(id, None)  # it has no run yet: looked at again with its next event
                except (httpx.HTTPError, MgrdError, KeyError, ValueError) as error:
                    log.warning("the run of %s is not below its sweep's yet: %s", id, error)
                    self._done.pop(id, None)
                    await asyncio.sleep(PAUSE_S)

    async def _hang(self, client: httpx.AsyncClient, child: Experiment) -> bool:
        """False: the child has no run yet."""
        if not child.mlflow_run:
            return False
        run = (await _asked(client, "GET", "runs/get", {"run_id": child.mlflow_run}))["run"]
        parent = await self._parent(client, run["info"]["experiment_id"], child)
        await _asked(
            client,
            "POST",
            "runs/set-tag",
            {"run_id": child.mlflow_run, "key": "mlflow.parentRunId", "value": parent},
        )
        return True

    async def _parent(self, client: httpx.AsyncClient, experiment_id: str, child: Experiment) -> str:
        known = self._parents.get((experiment_id, child.parent))
        if known:
            return known
        search = {
            "experiment_ids": [experiment_id],
            "filter": f"tags.`{TAG}` = '{child.parent}'",
            "max_results": 1,
        }
        found = (await _asked(client, "POST", "runs/search", search)).get("runs") or []
        if found:
            id = str(found[0]["info"]["run_id"])
        else:
            tags = {TAG: child.parent, "mgrd.user": child.user, "mlflow.user": child.user}
            made = await _asked(
                client,
                "POST",
                "runs/create",
                {
                    "experiment_id": experiment_id,
                    "run_name": child.parent,
                    "start_time": int(time.time() * 1000),
                    "tags": [{"key": key, "value": value} for key, value in tags.items()],
                },
            )
            id = str(made["run"]["info"]["run_id"])
            end = {"run_id": id, "status": "FINISHED", "end_time": int(time.time() * 1000)}
            await _asked(client, "POST", "runs/update", end)  # it holds its children, and does no work of its own
        self._parents[(experiment_id, child.parent)] = id
        return id

    def _mark(self, id: str) -> None:
        self._done[id] = None
        if len(self._done) > KEPT:
            self._done.popitem(last=False)


async def _asked(client: httpx.AsyncClient, method: str, path: str, content: dict[str, Any]) -> dict[str, Any]:
    sent = {"params": content} if method == "GET" else {"json": content}
    answer = await client.request(method, f"/api/2.0/mlflow/{path}", **sent)  # type: ignore[arg-type]
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()
    return found
