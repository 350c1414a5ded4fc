"""Every request a client can make, as data: method, path, body, how its answer is read, whether it may be sent twice (pure).

Neighbours: `client` and `async_client` send them, `answers` reads what comes back. Invariant: what is written here once holds for both
clients; a call that is not `repeatable` is sent again only if it can't have been done.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import msgspec

from orchestrator.errors import ConfigError
from orchestrator.service import answers
from orchestrator.service.answers import Comparison, NewToken, PolicyUpdate, StoredConfig, SweepAnswer, answer
from orchestrator.service.messages import AuditLine, Experiment, Priority, SampledTrajectory, State, Token, User
from orchestrator.service.overrides import Overrides, as_overrides, as_text

T = TypeVar("T")
Reader = Callable[[int, Mapping[str, str], bytes], T]
PAGE = 100  # experiments where nobody says how many
LARGEST_PAGE = 1000  # that the service gives at once


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request. path: below the service's address; body: JSON, or bytes of `content`; repeatable: doing it twice is as once."""

    method: str
    path: str
    read: Reader[T]
    params: tuple[tuple[str, str], ...] = ()
    body: Any = None
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = False

    def encoded(self) -> tuple[bytes | None, dict[str, str]]:
        """(body, headers) as sent."""
        if self.body is None:
            return self.content, dict(self.headers)
        return msgspec.json.encode(self.body), {"Content-Type": "application/json", **self.headers}


def submit(
    experiment: str,
    overrides: Overrides,
    *,
    priority: Priority | str,
    name: str,
    tags: Mapping[str, str],
    code: str,
    parent: str,
    key: str,
) -> Call[Experiment]:
    """key: idempotency key; a new one where empty, so that a request sent twice submits once."""
    body = {
        "overrides": as_overrides(experiment, overrides),
        "name": name,
        "priority": _priority(priority),
        "tags": dict(tags),
        "code": code,
        "parent": parent,
    }
    return _post("/v1/experiments", _sparse(body), answered(Experiment), headers=_keyed(key), repeatable=True)


def experiments(
    *,
    states: Iterable[State | str] = (),
    user: str = "",
    tag: tuple[str, str] | None = None,
    parent: str = "",
    limit: int = PAGE,
    before: str = "",
) -> Call[list[Experiment]]:
    params = [("state", _state(state)) for state in states]
    params += [(k, v) for k, v in (("user", user), ("parent", parent), ("before", before)) if v]
    if tag:
        params.append(("tag", ":".join(tag)))
    params.append(("limit", str(limit)))
    return _get("/v1/experiments", answered(list[Experiment], "experiments"), params)


def experiment(identity: str) -> Call[Experiment]:
    return _get(_of(identity), answered(Experiment))


def config(identity: str) -> Call[StoredConfig]:
    return _get(_of(identity, "/config"), answered(StoredConfig))


def updates(identity: str) -> Call[list[PolicyUpdate]]:
    rows = answered(list[dict[str, Any]], "updates")
    return _get(_of(identity, "/updates"), lambda *got: [answers.policy_update(row) for row in rows(*got)])


def samples(identity: str) -> Call[list[SampledTrajectory]]:
    return _get(_of(identity, "/samples"), answered(list[SampledTrajectory], "samples"))


def log_components(identity: str) -> Call[list[str]]:
    return _get(_of(identity, "/logs/components"), answered(list[str], "components"))


def logs(identity: str, component: str, tail: int | None, *, follow: bool = False) -> Call[str]:
    params = [("component", component)] if component else []
    params += [("tail", str(tail))] if tail is not None else []
    params += [("follow", "true")] if follow else []
    return _get(_of(identity, "/logs"), answered(str), params)


def events(identity: str = "") -> Call[str]:
    """The stream of one experiment, or of all."""
    path = _of(identity, "/events") if identity else "/v1/events"
    return _get(path, answered(str), headers={"Accept": "text/event-stream"})


def cancel(identity: str) -> Call[Experiment]:
    return _post(_of(identity, ":cancel"), None, answered(Experiment))


def pause(identity: str) -> Call[Experiment]:
    return _post(_of(identity, ":pause"), None, answered(Experiment))


def resume(identity: str, overrides: Overrides) -> Call[Experiment]:
    return _post(_of(identity, ":resume"), {"overrides": as_overrides("", overrides)}, answered(Experiment))


def clone(identity: str, overrides: Overrides, *, name: str, key: str) -> Call[Experiment]:
    body = _sparse({"overrides": as_overrides("", overrides), "name": name})
    return _post(_of(identity, ":clone"), body, answered(Experiment), headers=_keyed(key), repeatable=True)


def sweep(
    experiment: str,
    overrides: Overrides,
    *,
    grid: Mapping[str, Sequence[Any]] | None,
    points: Sequence[Overrides] | None,
    name: str,
    priority: Priority | str,
    tags: Mapping[str, str],
    code: str,
    key: str,
) -> Call[SweepAnswer]:
    """grid: every combination of the values; points: sets of overrides, one an experiment. Raises ConfigError unless one is given."""
    if bool(grid) == bool(points):
        raise ConfigError("a sweep needs a grid of values or a list of override sets, one of the two")
    body = {
        "overrides": as_overrides(experiment, overrides),
        "grid": {k: [as_text(value) for value in values] for k, values in grid.items()} if grid else None,
        "list": [as_overrides("", point) for point in points] if points else None,
        "name": name,
        "priority": _priority(priority),
        "tags": dict(tags),
        "code": code,
    }
    return _post("/v1/sweeps", _sparse(body), answered(SweepAnswer), headers=_keyed(key), repeatable=True)


def compare(a: str, b: str) -> Call[Comparison]:
    return _get("/v1/compare", answered(Comparison), [("a", a), ("b", b)])


def code_known(sha256: str) -> Call[bool]:
    """Whether the service holds this code; False also where it does not tell."""
    return Call("HEAD", f"/v1/code/{sha256}", lambda status, _, __: status < 300, repeatable=True)


def put_code(sha256: str, content: bytes) -> Call[None]:
    headers = {"Content-Type": "application/zip"}
    return Call("PUT", f"/v1/code/{sha256}", answered(type(None)), content=content, headers=headers, repeatable=True)


def me() -> Call[User]:
    return _get("/v1/me", answered(User))


def tokens() -> Call[list[Token]]:
    return _get("/v1/tokens", answered(list[Token], "tokens"))


def create_token(name: str, user: str, scope: str, expires_s: float) -> Call[NewToken]:
    body = _sparse({"name": name, "user": user, "scope": scope, "expires_s": expires_s or None})
    return _post("/v1/tokens", body, answered(NewToken))


def revoke_token(identity: str) -> Call[None]:
    return Call("DELETE", f"/v1/tokens/{quote(identity, safe='')}", answered(type(None)), repeatable=True)


def audit(limit: int) -> Call[list[AuditLine]]:
    return _get("/v1/audit", answered(list[AuditLine], "entries"), [("limit", str(limit))])


def cluster() -> Call[dict[str, Any]]:
    return _get("/v1/cluster", answered(dict[str, Any]))


def rewards() -> Call[dict[str, Any]]:
    return _get("/v1/rewards", answered(dict[str, Any]))


def score(terms: Sequence[Any], samples: Sequence[Any]) -> Call[dict[str, Any]]:
    body = {"terms": list(terms), "samples": list(samples)}
    return _post("/v1/score", body, answered(dict[str, Any]), repeatable=True)


def answered(returns: type[T], pick: str = "") -> Reader[T]:
    return partial(answer, returns=returns, pick=pick)


def _get(
    path: str, read: Reader[T], params: Sequence[tuple[str, str]] = (), *, headers: Mapping[str, str] | None = None
) -> Call[T]:
    return Call("GET", path, read, tuple(params), headers=headers or {}, repeatable=True)


def _post(
    path: str, body: Any, read: Reader[T], *, headers: Mapping[str, str] | None = None, repeatable: bool = False
) -> Call[T]:
    return Call("POST", path, read, body=body, headers=headers or {}, repeatable=repeatable)


def _of(identity: str, rest: str = "") -> str:
    return f"/v1/experiments/{quote(identity, safe='')}{rest}"


def _keyed(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key or uuid.uuid4().hex}


def _sparse(body: Mapping[str, Any]) -> dict[str, Any]:
    """Without what was left out; the service's defaults hold."""
    return {k: v for k, v in body.items() if v not in (None, "", {})}


def _priority(text: Priority | str) -> str:
    try:
        return Priority(text).value
    except ValueError:
        raise ConfigError(f"priority {text!r} is none of {', '.join(Priority)}") from None


def _state(text: State | str) -> str:
    try:
        return State(text).value
    except ValueError:
        raise ConfigError(f"state {text!r} is none of {', '.join(State)}") from None
