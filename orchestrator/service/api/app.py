"""The app: routers by concern, one form of errors, limits in front, what lives as long as the process.

Neighbours: `__main__` serves it, `context` is what the routes work with, `page` the page for people. Invariants: what starts with the app
ends with it; no route launches anything; everything under /v1 asks for a scope.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.rewards_store import open_store
from orchestrator.service.access import Access, needs
from orchestrator.service.api import (
    comparing,
    experiments,
    files,
    health,
    people,
    problems,
    sweeps,
    uploads,
    watching,
)
from orchestrator.service.api.context import Capacity, Context, roots_of
from orchestrator.service.api.lineage import SweepLineage
from orchestrator.service.api.metrics import Metrics, Standing
from orchestrator.service.api.page import page_router
from orchestrator.service.capacity import Cluster
from orchestrator.service.event_feed import EventFeed
from orchestrator.service.home import Home
from orchestrator.service.limits import BodyLimit, Rates
from orchestrator.service.queue_view import QueueView
from orchestrator.service.settings import ServiceSettings
from orchestrator.service.store import Store
from orchestrator.service.store_schedulers import Schedulers
from orchestrator.service.tokens import TokenStore
from rewards import HttpSettings, RewardApi, ScoringPool, reward_routes

DESCRIPTION = (
    "Submit experiments, watch them, change them. Errors are `{error: {message, field, hint}}`. Send a token as "
    "`Authorization: Bearer mgrd_…`; a service without tokens answers on loopback only, and asks for none."
)
SCORERS = 2  # threads that score for `/v1/score`; each starts processes when it is first used
CODE = "/v1/code/"  # limits the body itself


def create_app(
    settings: ServiceSettings,
    store: Store,
    tokens: TokenStore,
    *,
    home: Home | None = None,
    look: Callable[[], Cluster] | None = None,
    scorers: int = SCORERS,
) -> FastAPI:
    """look: asks Ray for its machines, None where none is known. Redis is `settings.redis_url`, which store and tokens must use, too."""
    home = home or Home.default()
    feed = EventFeed(settings.redis_url, store.link)
    schedulers = Schedulers(store.link)
    metrics = Metrics(lambda: Standing(store.counts(), store.queued(), store.active(), schedulers.all()))
    access = Access(tokens, Rates(settings.rate_per_s, settings.rate_burst))
    roots = roots_of(settings, home)
    pool = ScoringPool(scorers)
    lineage = SweepLineage(store, settings.mlflow_uri)
    feed.listen(metrics.event)
    feed.listen(lineage.hear)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await feed.start()
        task = asyncio.create_task(lineage.run(), name="sweep lineage")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await feed.stop()
            await run_in_threadpool(pool.close)

    app = FastAPI(title="mgrd", description=DESCRIPTION, version="1", lifespan=lifespan, redoc_url=None)
    app.state.access = access
    app.state.context = Context(
        settings=settings,
        home=home,
        store=store,
        schedulers=schedulers,
        queue=QueueView(store.link),
        capacity=Capacity(look),
        feed=feed,
        access=access,
        metrics=metrics,
        roots=roots,
    )
    body_bytes = int(settings.max_body_mb * (1 << 20))
    app.add_middleware(BodyLimit, limit=lambda path: 0 if path.startswith(CODE) else body_bytes)
    app.add_middleware(Measured, metrics=metrics)
    problems.install(app)
    app.include_router(health.public)
    for router in (experiments, sweeps, comparing, files, watching, uploads, people, health):
        app.include_router(router.router)
    app.include_router(_rewards(settings, pool, roots))
    app.include_router(page_router())
    return app


def _rewards(settings: ServiceSettings, pool: ScoringPool, roots: tuple[Path, ...]) -> Any:
    http = HttpSettings(clips=roots[0], max_body_mb=max(1, int(settings.max_body_mb)))
    api = RewardApi(pool, partial(open_store, settings.redis_url), http)
    return reward_routes(
        api,
        scoring=[Depends(needs("submit"))],
        reading=[Depends(needs("read"))],
        errors=problems.errors(404, 504),
    )


class Measured:
    """ASGI middleware: how long each route takes until its answer begins."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.monotonic()

        async def measured(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "none")
                method = scope["method"] if scope["method"] in METHODS else "other"
                self.metrics.request(method, route, message["status"], time.monotonic() - began)
            await send(message)

        await self.app(scope, receive, measured)


METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE"})
