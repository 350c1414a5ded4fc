"""Routes of who may do what: me, tokens, the audit log.

Neighbours: `tokens` keeps them, `access` checks them. Invariants: a token's secret is in one answer only, the one that made it; nobody
takes away the last way in: an admin token can't revoke itself.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from orchestrator.service.access import Admin, Reader
from orchestrator.service.api.bodies import Audit, NewToken, NewTokenBody, Tokens
from orchestrator.service.api.context import Here, answer
from orchestrator.service.api.problems import errors
from orchestrator.service.messages import User
from orchestrator.service.refusals import Refused

router = APIRouter(prefix="/v1", tags=["access"])
TokenId = Annotated[str, Path(pattern="^[0-9a-f]{12}$", description="The part between mgrd_ and the secret.")]


@router.get("/me", response_model=User, responses=errors())
def me(user: Reader) -> Response:
    """Whose token this is."""
    return answer(user)


@router.post("/tokens", status_code=201, response_model=NewToken, responses=errors())
def create(body: NewTokenBody, request: Request, here: Here, user: Admin) -> Response:
    """The secret is shown once. The first token of a service closes it: from then on every request needs one."""
    with here.access.audited(request, user, "create token", f"{body.scope} for {body.user}") as deed:
        if not user.token and body.scope != "admin":
            raise Refused(422, "the first token must have the scope admin, or nobody could make another", field="scope")
        token, secret = here.access.tokens.create(body.name, body.user, body.scope, expires_s=body.expires_s)
        here.access.close()
        deed.target = f"{token.id}: {body.scope} for {body.user}"
    return answer(NewToken(token, secret), 201)


@router.get("/tokens", response_model=Tokens, responses=errors())
def tokens(here: Here, _: Admin) -> Response:
    """Newest first, revoked ones as well; without secrets."""
    return answer({"tokens": here.access.tokens.list()})


@router.delete("/tokens/{id}", status_code=204, responses=errors(404, 409))
def revoke(id: TokenId, request: Request, here: Here, user: Admin) -> Response:
    """It opens nothing from the next request on."""
    with here.access.audited(request, user, "revoke token", id):
        if id == user.token:
            raise Refused(409, "this is the token that you use; revoke it with another one", field="id")
        if id not in {token.id for token in here.access.tokens.list()}:
            raise Refused(404, f"there is no token {id}", field="id", hint="GET /v1/tokens lists them")
        here.access.tokens.revoke(id)
    return Response(status_code=204)


@router.get("/audit", response_model=Audit, responses=errors())
def audit(
    here: Here,
    _: Admin,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    before: Annotated[str, Query(pattern=r"^(\d{1,18}-\d{1,18})?$", description="Id: lines before it.")] = "",
) -> Response:
    """Who changed what, or was refused; newest first."""
    return answer({"entries": list(here.access.tokens.audited(limit=limit, before=before))})
