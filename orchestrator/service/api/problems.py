"""Refusals as HTTP: one form of error body, one table of which error is which status.

Neighbours: every router raises `Refused` or lets the errors of store, intake and tokens through; `app` installs the handlers. Invariants:
every answer of 400 and above has the body `{"error": {"message", "field", "hint"}}`; what we did not foresee is a 500 with a number that is
in the log, and nothing of its inside.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from orchestrator.errors import ConfigError
from orchestrator.service.override_rules import IntakeRefused
from orchestrator.service.refusals import Refused
from orchestrator.service.store_errors import IdTaken, KeyReused, NoSuchExperiment, NotPossible, StoreError
from orchestrator.service.tokens import TokenError
from rewards import Refused as RewardRefused

log = logging.getLogger(__name__)
RETRY_S = 5  # what a caller is asked to wait for a server that is away


class Problem(BaseModel):
    message: str = Field(description="What happened, where, and mostly what to do.")
    field: str = Field("", description="Where in the request, such as overrides[3]; empty: not about a field.")
    hint: str = Field("", description="What to do.")


class ErrorBody(BaseModel):
    error: Problem


TEXTS = {
    400: "The request can't be read.",
    401: "The token is missing, unknown, expired or revoked.",
    403: "The token does not allow this, or the experiment is another user's.",
    404: "There is no such thing.",
    405: "Not with this method.",
    409: "Not possible in the state that the experiment is in, or the idempotency key was used for another request.",
    413: "The request is too large.",
    415: "A body of another media type is expected.",
    422: "A field can't be used; the answer names it.",
    429: "Too many requests; Retry-After says when to come back.",
    503: "Redis, MLflow or the scoring does not answer; Retry-After says when to come back.",
    504: "Not done in time.",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses=` of a route: its own statuses and those that any route under /v1 can answer with."""
    return {
        s: {"model": ErrorBody, "description": TEXTS[s]}
        for s in sorted({400, 401, 403, 404, 413, 422, 429, 503, *statuses})
    }


def install(app: FastAPI) -> None:
    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        return problem(error.status, str(error), error.field, error.hint, retry_s=error.retry_s)

    @app.exception_handler(RewardRefused)
    async def reward_refused(_: Request, error: RewardRefused) -> JSONResponse:
        return problem(error.status, str(error), error.field, retry_s=RETRY_S if error.status == 503 else 0)

    @app.exception_handler(IntakeRefused)
    async def not_taken(_: Request, error: IntakeRefused) -> JSONResponse:
        return problem(422, str(error), error.field, error.hint)

    @app.exception_handler(ConfigError)
    async def no_config(_: Request, error: ConfigError) -> JSONResponse:
        return problem(422, str(error))

    @app.exception_handler(NoSuchExperiment)
    async def missing(_: Request, error: NoSuchExperiment) -> JSONResponse:
        return problem(404, str(error), "id")

    @app.exception_handler(NotPossible)
    async def not_possible(_: Request, error: NotPossible) -> JSONResponse:
        return problem(409, str(error))

    @app.exception_handler(KeyReused)
    async def reused(_: Request, error: KeyReused) -> JSONResponse:
        return problem(409, str(error), "header.Idempotency-Key")

    @app.exception_handler(IdTaken)
    async def taken(_: Request, error: IdTaken) -> JSONResponse:
        return problem(409, str(error))

    @app.exception_handler(TokenError)
    async def token(_: Request, error: TokenError) -> JSONResponse:
        return problem(422, str(error))

    @app.exception_handler(StoreError)
    async def away(_: Request, error: StoreError) -> JSONResponse:
        log.warning("%s", error)
        return problem(503, str(error), retry_s=RETRY_S)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        field = "body" if first["type"] == "json_invalid" else field_of(first["loc"])
        return problem(422, str(first["msg"]), field)

    @app.exception_handler(HTTPException)
    async def unserved(_: Request, error: HTTPException) -> JSONResponse:
        return problem(error.status_code, str(error.detail), headers=error.headers)

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> JSONResponse:
        number = secrets.token_hex(4)
        log.error("error %s at %s %s", number, request.method, request.url.path, exc_info=error)
        return problem(500, f"the service has failed at this request; its log tells why under {number}")


def problem(
    status: int,
    message: str,
    field: str = "",
    hint: str = "",
    *,
    retry_s: int = 0,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    sent = dict(headers or {})
    if retry_s:
        sent["Retry-After"] = str(retry_s)
    if status == 401:
        sent["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": {"message": message, "field": field, "hint": hint}}, status, headers=sent)


def field_of(location: tuple[Any, ...]) -> str:
    """`("body", "tags", "a")` as `tags.a`, `("query", "limit")` as `query.limit`."""
    text = ""
    for part in location[1:] if location[:1] in (("body",), ("path",)) else location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or "body"
