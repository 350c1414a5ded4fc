"""Routes of health: does it live, can it work, what does the cluster look like, what does Prometheus read.

Neighbours: the supervisor asks `/healthz`, a load balancer `/readyz`. Invariants: liveness asks nobody else; readiness names every part and
what ails it, within a few seconds.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import httpx
from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST

from orchestrator.config.shown import hidden
from orchestrator.errors import MgrdError
from orchestrator.service.access import Reader
from orchestrator.service.api.bodies import Amounts, ClusterView, Health, Queue, Ready, amounts
from orchestrator.service.api.context import Context, Here, answer
from orchestrator.service.api.problems import errors

public = APIRouter(tags=["health"])
router = APIRouter(prefix="/v1", tags=["cluster"])
SEEN_S = 30.0  # a scheduler's round takes a second
MLFLOW_S = 3.0
TEXT = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Text format of Prometheus."}}


@public.get("/healthz", response_model=Health)
async def healthz() -> Response:
    """The API answers."""
    return answer(Health("ok"))


@public.get(
    "/readyz",
    response_model=Ready,
    responses={503: {"model": Ready, "description": "A part does not work; `parts` says which."}},
)
def readyz(here: Here) -> Response:
    """Redis answers, a scheduler has decided within 30 s, MLflow answers."""
    parts = {"redis": _redis, "scheduler": _scheduler, "mlflow": _mlflow}
    with ThreadPoolExecutor(len(parts)) as threads:
        found = dict(zip(parts, threads.map(lambda part: part(here), parts.values()), strict=True))
    ready = all(said == "ok" for said in found.values())
    return answer(Ready("ready" if ready else "not ready", found), 200 if ready else 503)


@public.get("/metrics", response_class=Response, responses=TEXT)  # type: ignore[arg-type]
def metrics(here: Here) -> Response:
    """Counters and gauges; docs/SERVICE.md tells what each is."""
    here.metrics.watchers.set(here.feed.watching)
    return Response(here.metrics.text(), media_type=CONTENT_TYPE_LATEST)


@router.get("/cluster", response_model=ClusterView, responses=errors())
def cluster(here: Here, _: Reader) -> Response:
    """Machines, what is free, what waits."""
    queued, active = here.store.queued(), here.store.active()
    found = here.capacity.cluster()
    nodes = list(found.nodes) if found else []
    return answer(
        ClusterView(
            nodes=nodes,
            total=Amounts(sum(n.cpus for n in nodes), sum(n.gpus for n in nodes), sum(n.memory_gib for n in nodes)),
            free=Amounts(
                sum(n.free_cpus for n in nodes), sum(n.free_gpus for n in nodes), sum(n.free_memory_gib for n in nodes)
            ),
            queued=len(queued),
            demand=amounts([one.demand for one in queued]),
            active=[one.id for one in active],
            problem=here.capacity.problem,
        )
    )


@router.get("/queue", response_model=Queue, responses=errors())
def queue(here: Here, _: Reader) -> Response:
    """Who waits for what: the first thousand, with the reason of each."""
    return answer(Queue(here.queue.all()))


def _redis(here: Context) -> str:
    try:
        here.store.counts()
    except MgrdError as error:
        return str(error)
    return "ok"


def _scheduler(here: Context) -> str:
    try:
        lines = here.schedulers.all()
    except MgrdError:
        return "unknown while Redis is away"
    if not lines:
        return "none has ever decided: start `python -m orchestrator.service.scheduler`"
    seen = time.time() - max(line.at for line in lines)
    return "ok" if seen <= SEEN_S else f"none has decided for {seen:.0f} s: look at the schedulers' logs"


def _mlflow(here: Context) -> str:
    uri = here.settings.mlflow_uri
    if not uri:
        return "no address is set: give --mlflow-uri"
    try:
        found = httpx.get(f"{uri.rstrip('/')}/health", timeout=MLFLOW_S, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        return f"{hidden(uri)} does not answer: {type(error).__name__}"
    return "ok" if found.status_code == 200 else f"{hidden(uri)} answers {found.status_code}"
