"""Ray's dashboard over HTTP: jobs and the state of the cluster, with limits on every wait.

Neighbours: `launcher` and `capacity` ask through this. Not Ray's own client: that one imports all of Ray, connects when it is made, and
waits without limit. Invariants: Ray being away is a `RayAway`, never a hang; an answer of 404 is a value.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import httpx

from orchestrator.errors import MgrdError

TIMEOUT_S = 10.0
ROWS = 10_000  # most that Ray lists at once


class RayAway(MgrdError):
    """Ray's dashboard does not answer, or answers what it should not. Try again later."""


class RayRefused(MgrdError):
    """Ray will not do what it was asked."""


class RayApi:
    """url: of the dashboard; token: of Ray's own authentication, "" without. Thread-safe."""

    def __init__(self, url: str, token: str = "", *, timeout_s: float = TIMEOUT_S) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.url = url.rstrip("/")
        self._client = httpx.Client(base_url=self.url, headers=headers, timeout=timeout_s, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def get(self, path: str, **parameters: Any) -> Any:
        """JSON; None where there is no such thing. Raises RayAway, RayRefused."""
        return self._ask("GET", path, params=parameters)

    def post(self, path: str, content: Any = None) -> Any:
        """JSON; None where there is no such thing. Raises RayAway, RayRefused."""
        return self._ask("POST", path, json=content)

    def rows(self, kind: str, **equal: str) -> list[dict[str, Any]]:
        """Of Ray's state API: nodes, actors, placement_groups; those whose columns have these values. Raises RayAway, RayRefused."""
        filters = {
            "filter_keys": list(equal),
            "filter_predicates": ["="] * len(equal),
            "filter_values": list(equal.values()),
        }
        answer = self.get(f"/api/v0/{kind}", limit=ROWS, detail="true", timeout=int(TIMEOUT_S), **filters)
        try:
            rows = answer["data"]["result"]["result"]
        except (TypeError, KeyError) as error:
            raise RayAway(
                f"Ray at {self.url} listed no {kind}: {answer!r}; it may be starting, or be too old"
            ) from error
        return list(rows)

    def _ask(self, method: str, path: str, **arguments: Any) -> Any:
        try:
            reply = self._client.request(method, path, **arguments)
        except httpx.HTTPError as error:
            raise RayAway(
                f"Ray's dashboard at {self.url} does not answer ({type(error).__name__}: {error}); look at its log, or correct the address"
            ) from error
        if reply.status_code == httpx.codes.NOT_FOUND:
            return None
        if reply.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise RayRefused(
                f"Ray at {self.url} refuses the token ({reply.status_code}): give the one it was started with"
            )
        if reply.status_code == httpx.codes.BAD_REQUEST or "already exists" in reply.text:
            raise RayRefused(f"Ray at {self.url} refused {method} {path}: {_last_line(reply.text)}")
        if reply.is_error:
            raise RayAway(
                f"Ray at {self.url} failed at {method} {path} ({reply.status_code}): {_last_line(reply.text)}"
            )
        try:
            return reply.json()
        except ValueError as error:
            raise RayAway(f"Ray at {self.url} answered {method} {path} with no JSON: {reply.text[:200]!r}") from error


def _last_line(text: str) -> str:
    """Of a traceback: what it says."""
    return (text.strip().splitlines() or [""])[-1][:500]
