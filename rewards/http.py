"""The reward service over HTTP: `POST /v1/score`, what is registered, health, metrics, a page that describes it all.

Neighbours: `http_api` does what the routes promise, `http_messages` checks requests, `orchestrator.rewards_serve` runs the app.
Invariants: a request that can't be served gets a 4xx naming the field; what is under /v1 asks for the token where there is one.
"""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException as StarletteHTTPException

from rewards.http_api import HttpSettings, OpenStore, Refused, RewardApi
from rewards.http_limits import BodyLimit
from rewards.http_messages import ErrorBody, RewardList, ScoreRequest, ScoreResponse
from rewards.http_pool import ScoringPool
from rewards.secrets import secret

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": text}
    for status, text in {
        401: "The token is missing or wrong.",
        404: "No such reward.",
        413: "Too many samples, or too large a body.",
        422: "A field can't be used; the answer names it.",
        503: "Busy, or the registry does not answer.",
        504: "Not done in time.",
    }.items()
}


def create_app(
    pool: ScoringPool, *, open_store: OpenStore | None = None, settings: HttpSettings | None = None
) -> FastAPI:
    """The app; it closes the pool when it ends. Raises RewardError when the token's secret is missing."""
    settings = settings or HttpSettings()
    api = RewardApi(pool, open_store, settings)
    token = secret(settings.token_secret) if settings.token_secret else ""
    bearer = HTTPBearer(auto_error=False, description="Token of this server; none is asked for where none is set.")

    def authorised(credentials: HTTPAuthorizationCredentials | None = Depends(bearer)) -> None:  # noqa: B008 FastAPI's way
        given = credentials.credentials if credentials else ""
        if token and not hmac.compare_digest(given.encode(), token.encode()):
            raise Refused(401, "header.Authorization", "send the server's token: Authorization: Bearer …")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(api.warm_up)
        yield
        await run_in_threadpool(pool.close)

    app = FastAPI(
        title="mgrd rewards",
        description="Scores of model responses by installed and published reward functions. A score that can't be computed is "
        "an invalid verdict with a reason, never 0.",
        version="1",
        lifespan=lifespan,
    )
    app.state.api = api
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_mb << 20)
    asked = [Depends(authorised)]
    app.include_router(reward_routes(api, scoring=asked, reading=asked))

    @app.get("/healthz", tags=["health"])
    def healthz() -> dict[str, str]:
        """The server runs."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["health"], responses={503: ERRORS[503]})
    def readyz() -> dict[str, Any]:
        """The server can score: a scoring process was started and has answered."""
        if api.problem:
            raise Refused(503, "", api.problem)
        return {"status": "ready", "waiting_samples": pool.waiting}

    @app.get("/metrics", tags=["health"], response_class=PlainTextResponse)
    def metrics() -> str:
        """Counters in the text format of Prometheus."""
        return api.metrics.text(pool.waiting)

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        api.metrics.refused(error.status)
        return _problem(error.status, error.field, str(error))

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        api.metrics.refused(422)
        field = "body" if first["type"] == "json_invalid" else _field(first["loc"])
        return _problem(422, field, str(first["msg"]))

    @app.exception_handler(StarletteHTTPException)
    async def unserved(_: Request, error: StarletteHTTPException) -> JSONResponse:
        api.metrics.refused(error.status_code)
        return _problem(error.status_code, "body" if error.status_code == 413 else "", str(error.detail))

    return app


def reward_routes(
    api: RewardApi,
    *,
    scoring: Sequence[Any],
    reading: Sequence[Any],
    errors: Mapping[int | str, dict[str, Any]] | None = None,
) -> APIRouter:
    """`/v1/score` and `/v1/rewards`, for an app that answers `Refused` by itself. scoring, reading: dependencies that let callers in;
    errors: how that app documents its refusals."""
    router = APIRouter()

    def those(*statuses: int) -> dict[int | str, dict[str, Any]]:
        return dict(errors) if errors else {status: ERRORS[status] for status in statuses}

    @router.post("/v1/score", responses=those(401, 413, 422, 503, 504), dependencies=scoring, tags=["score"])
    def score(request: ScoreRequest) -> ScoreResponse:
        """Scores samples with installed functions, or published versions (`name@tag`, `name@sha256:…`)."""
        return api.score(request)

    @router.get("/v1/rewards", responses=those(503), dependencies=reading, tags=["rewards"])
    def rewards() -> RewardList:
        """Everything that is installed and published."""
        return api.rewards()

    @router.get("/v1/rewards/{name}", responses=those(404), dependencies=reading, tags=["rewards"])
    def named(name: str) -> RewardList:
        """One reward: installed, and all published versions."""
        return api.named(name)

    return router


def _problem(status: int, field: str, message: str) -> JSONResponse:
    headers = {"Retry-After": "5"} if status == 503 else None
    return JSONResponse({"error": {"field": field, "message": message}}, status, headers=headers)


def _field(location: tuple[Any, ...]) -> str:
    """`("body", "terms", 0, "weight")` as `terms[0].weight`."""
    text = ""
    for part in location[1:] if location[:1] == ("body",) else location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or "body"
