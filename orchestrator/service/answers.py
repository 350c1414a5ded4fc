"""What the service answers, typed: bodies as dataclasses, statuses as exceptions (pure).

Neighbours: `calls` says which type a request returns, `messages` holds what the service itself passes on. Invariants: a field this
client does not know is ignored, a missing or malformed one is an error; no answer is ever half-read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from orchestrator.service.client_errors import (
    BY_STATUS,
    HINTS,
    RequestRefused,
    ServiceError,
    ServiceFailed,
    UnreadableAnswer,
)
from orchestrator.service.messages import Experiment, Token

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoredConfig:
    """The resolved configuration. yaml: reruns the experiment exactly; flat: every key with its value as text."""

    yaml: str
    flat: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PolicyUpdate:
    """One policy update. update: counts through the whole run; metrics: every number reported with it; at: seconds since 1970."""

    update: int
    stage: str = ""
    at: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ConfigDifference:
    """A key whose values differ; None where one of the two lacks it."""

    key: str
    a: str | None
    b: str | None


@dataclass(frozen=True, slots=True)
class MetricDifference:
    """The same number of two experiments; None where one of the two has none."""

    name: str
    a: float | None
    b: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two experiments side by side: keys that differ, and the last values of their metrics."""

    config: tuple[ConfigDifference, ...] = ()
    metrics: tuple[MetricDifference, ...] = ()


@dataclass(frozen=True, slots=True)
class SweepAnswer:
    """parent: id that the experiments of one sweep share."""

    parent: str
    experiments: tuple[Experiment, ...]


@dataclass(frozen=True, slots=True)
class NewToken:
    """secret: the token as it is sent; the service never shows it again."""

    token: Token
    secret: str = field(repr=False)


def answer(status: int, headers: Mapping[str, str], body: bytes, returns: type[T], pick: str = "") -> T:
    """The body, or the part of it named `pick`, as `returns`. Raises ServiceError, of the type that fits the status."""
    if not 200 <= status < 300:
        raise failure(status, headers, body)
    if returns is str:
        return body.decode("utf-8", "replace")  # type: ignore[return-value]
    if returns is type(None):
        return None  # type: ignore[return-value]
    try:
        value = msgspec.json.decode(body)
        if pick:
            value = value[pick]
        return msgspec.convert(value, returns)
    except (msgspec.MsgspecError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise UnreadableAnswer(
            f"the answer can't be read as {_name(returns)}: {type(error).__name__}: {error}",
            status=status,
            hint="does MGRD_URL lead to mgrd's service, of the same version as this client?",
        ) from error


def failure(status: int, headers: Mapping[str, str], body: bytes) -> ServiceError:
    """The exception for an answer that is none of success."""
    said = _said(body)
    kind = BY_STATUS.get(status, ServiceFailed if status >= 500 else RequestRefused)
    message = (
        said.get("message") or f"the service answered {status}: {body[:200].decode('utf-8', 'replace') or 'nothing'}"
    )
    return kind(
        message,
        status=status,
        field=said.get("field", ""),
        hint=HINTS.get(status, "") if status == 401 else said.get("hint", "") or HINTS.get(status, ""),
        retry_after_s=_seconds(headers.get("retry-after", "")),
    )


def policy_update(row: Mapping[str, Any]) -> PolicyUpdate:
    """A row of `updates`: numbers may stand in `metrics` or beside it; texts among them are left out."""
    known = {item.name for item in dataclasses.fields(PolicyUpdate)} - {"metrics"}
    numbers = {**{k: v for k, v in row.items() if k not in known | {"metrics"}}, **(row.get("metrics") or {})}
    return PolicyUpdate(
        update=int(row["update"]),
        stage=str(row.get("stage", "")),
        at=float(row.get("at") or 0.0),
        metrics={k: float(v) for k, v in numbers.items() if isinstance(v, int | float)},
    )


def _said(body: bytes) -> dict[str, str]:
    """The fields of an error answer; empty for a body of something else (a proxy's page)."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    error = value.get("error") if isinstance(value, dict) else None
    return {k: str(v) for k, v in error.items() if v} if isinstance(error, dict) else {}


def _seconds(text: str) -> float | None:
    try:
        return max(0.0, float(text))
    except ValueError:
        return None  # absent, or a date: the usual pause will do


def _name(kind: Any) -> str:
    return getattr(kind, "__name__", str(kind))
