"""Parameters of an endpoint reward as a dataclass: one place for names, defaults and ranges.

Neighbours: `judge` and `remote` describe theirs; the registry binds a run's parameters by signature. Invariants: pure and light;
what is wrong with a value is a ValueError that names the parameter.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, TypeVar

from rewards.endpoints.urls import check_url

Call = TypeVar("Call", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSettings:
    """What every endpoint has.

    url: http or https; secret: name of the secret that is sent as a bearer token ("" none); concurrency: requests at once;
    requests_per_minute: in any 60 seconds (0: no limit); attempts: of one request, when it fails in a way that may pass;
    timeout_s: of one attempt, from connecting to the last byte; limit_s: of one request or verdict once its turn in the queue has
    come, pauses included; breaker_failures: requests in a row that fail until the endpoint is left alone for breaker_pause_s.
    """

    url: str
    secret: str = ""
    concurrency: int = 8
    requests_per_minute: float = 0.0
    attempts: int = 4
    timeout_s: float = 60.0
    limit_s: float = 300.0
    breaker_failures: int = 5
    breaker_pause_s: float = 30.0

    def check(self) -> None:
        """Raises ValueError for the first value that can't work."""
        check_url(self.url)
        self.check_range("concurrency", "attempts", "breaker_failures", least=1)
        self.check_range("timeout_s", "limit_s", "breaker_pause_s", least=0.001)
        check_rate("requests_per_minute", self.requests_per_minute)
        rate = self.requests_per_minute
        if rate and self.concurrency * 60 / rate > self.limit_s / 2:
            raise ValueError(
                f"{self.concurrency} at once would wait too long for {rate:g} requests a minute "
                f"(limit_s is {self.limit_s:g}); lower concurrency or raise limit_s"
            )

    def check_range(self, *names: str, least: float) -> None:
        """Raises ValueError for a value that is no finite number or below `least`."""
        for name in names:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ValueError(f"{name} is {value!r}, not a number")
            if value < least:
                raise ValueError(f"{name} is {value!r}; it must be {least:g} or more")


def check_rate(name: str, per_minute: float) -> None:
    """Raises ValueError for what is neither 0 nor one a minute or more."""
    if isinstance(per_minute, bool) or not isinstance(per_minute, (int, float)) or not math.isfinite(per_minute):
        raise ValueError(f"{name} is {per_minute!r}, not a number")
    if per_minute != 0 and per_minute < 1:
        raise ValueError(f"{name} is {per_minute!r}; it must be 1 or more, or 0 for no limit")


def check_choice(name: str, value: object, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{name} is one of {', '.join(known)}, not {value!r}")


def parameters_of(settings: type) -> Callable[[Call], Call]:
    """Gives `call(secrets, **parameters)` the fields of a settings dataclass for its parameters, names and defaults."""

    def sign(call: Call) -> Call:
        signature = [inspect.Parameter("secrets", inspect.Parameter.POSITIONAL_ONLY)]
        for field in fields(settings):
            default = inspect.Parameter.empty if field.default is MISSING else field.default
            signature.append(inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default))
        call.__signature__ = inspect.Signature(signature)  # type: ignore[attr-defined]
        return call

    return sign
