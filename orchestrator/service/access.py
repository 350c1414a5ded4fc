"""Who asks, and what they may do: bearer tokens, scopes, ownership, the audit log.

Neighbours: `tokens` keeps tokens and log, `limits` the rates; every route of the API names the scope it needs by `needs`. Invariants: a
route without `needs` is public by decision (tests list them); an experiment is changed by its user or an admin only; every change and every
refusal of one is in the audit log.
"""

from __future__ import annotations

import getpass
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from orchestrator.errors import MgrdError
from orchestrator.service.limits import Rates
from orchestrator.service.messages import Experiment, User
from orchestrator.service.refusals import Refused
from orchestrator.service.tokens import SCOPES, Refusal, TokenStore

log = logging.getLogger(__name__)
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1", "testserver"})
FAILURES_PER_S, FAILURES_BURST = 5.0, 20  # of one address, with tokens that open nothing
LOOK_AGAIN_S = 1.0  # how soon a service without tokens notices its first one, if it was made elsewhere
bearer = HTTPBearer(
    auto_error=False,
    scheme_name="token",
    description="`mgrd_<id>_<secret>`; none is asked for while the service has no token and listens on loopback only.",
)


class Access:
    """Used by one event loop; the audit part by any thread."""

    def __init__(self, tokens: TokenStore, rates: Rates) -> None:
        self.tokens, self.rates = tokens, rates
        self._failures = Rates(FAILURES_PER_S, FAILURES_BURST)
        self._open, self._looked = True, -LOOK_AGAIN_S

    async def open(self) -> bool:
        """No token was ever made: whoever reaches this machine's loopback address is its owner."""
        if self._open and time.monotonic() - self._looked > LOOK_AGAIN_S:
            self._open = not await run_in_threadpool(self.tokens.configured)
            self._looked = time.monotonic()
        return self._open

    def close(self) -> None:
        """A token was made here: from now on one is asked for."""
        self._open = False

    async def user(self, request: Request, given: str, scope: str) -> User:
        """Raises Refused: 401, 403, 429."""
        user = await self._known(request, given)
        wait_s = await self.rates.take(user.token or user.name)
        if wait_s:
            raise Refused(
                429,
                f"more than {self.rates.rate_per_s:g} requests a second",
                hint=f"come back in {wait_s:.0f} s",
                retry_s=int(wait_s),
            )
        if scope not in user.scopes:
            await run_in_threadpool(
                self.note, request, user, request.method, request.url.path, f"refused: needs {scope}"
            )
            raise Refused(
                403,
                f"this needs a token with the scope {scope}, yours has {', '.join(user.scopes)}",
                field="header.Authorization",
                hint="ask an admin for another token",
            )
        return user

    async def _known(self, request: Request, given: str) -> User:
        if await self.open():
            host = request.url.hostname or ""
            if host not in LOCAL_HOSTS:  # a page of another site that had its name lead here
                raise Refused(
                    403, f"a service without tokens answers to localhost only, not to {host!r}", field="header.Host"
                )
            # Any page may have a browser post here, and then the browser names the page.
            origin = request.headers.get("origin")
            if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
                raise Refused(
                    403,
                    f"a service without tokens takes nothing from a page of another site ({origin[:100]!r})",
                    field="header.Origin",
                    hint="make a token: `mgrd token create --scope admin`",
                )
            return User(owner(), SCOPES)
        address = address_of(request)
        if given:
            found = await run_in_threadpool(self.tokens.check, given)
            if isinstance(found, User):
                return found
            message = found.value
        else:
            message = "a token is needed"
        wait_s = await self._failures.take(address)
        if wait_s:
            raise Refused(429, "too many requests without a valid token", retry_s=int(wait_s))
        hint = {
            Refusal.EXPIRED.value: "make a new one with `mgrd token create`",
            Refusal.REVOKED.value: "ask an admin for a new one",
        }.get(message, "send Authorization: Bearer mgrd_…")
        raise Refused(401, message, field="header.Authorization", hint=hint)

    def owns(self, user: User, experiment: Experiment) -> None:
        """Raises Refused, 403."""
        if experiment.user != user.name and "admin" not in user.scopes:
            raise Refused(
                403,
                f"{experiment.id} belongs to {experiment.user}; you are {user.name}",
                field="id",
                hint="clone it to get one of your own",
            )

    def note(self, request: Request, user: User, deed: str, target: str, outcome: str) -> None:
        """A line of the audit log. Raises StoreError."""
        self.tokens.audit(user.name, deed, target[:200], outcome[:500], address=address_of(request))

    @contextmanager
    def audited(self, request: Request, user: User, deed: str, target: str) -> Iterator[Deed]:
        """Around a change: notes that it was done, or why not."""
        made = Deed(target)
        try:
            yield made
        except (Refused, MgrdError) as error:
            self.note(request, user, deed, made.target, f"refused: {error}")
            raise
        self.note(request, user, deed, made.target, "done")


class Deed:
    """target: what is changed; set it once it has a name."""

    def __init__(self, target: str) -> None:
        self.target = target


def needs(scope: str) -> Callable[..., Coroutine[Any, Any, User]]:
    """Dependency of a route: the user, who holds `scope`."""

    async def asked(
        request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
    ) -> User:
        access: Access = request.app.state.access
        return await access.user(request, credentials.credentials if credentials else "", scope)

    asked.scope = scope  # type: ignore[attr-defined]  # for the tests that walk over all routes
    return asked


Reader = Annotated[User, Depends(needs("read"))]
Submitter = Annotated[User, Depends(needs("submit"))]
Admin = Annotated[User, Depends(needs("admin"))]


def owner() -> str:
    """Name of the operating system's user, who is everybody on a service without tokens."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "local"


def address_of(request: Request) -> str:
    return request.client.host if request.client else ""
