"""A circuit breaker: after some failures in a row an endpoint is left alone for a while, and asked once before it is trusted.

Neighbours: `client` puts every call, with all its retries, inside `guard`; purgatory holds the three states.
Invariants: while it is open nobody waits for the endpoint; when the pause is over one call tries, the others go on failing at
once until that one has come back.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from rewards.endpoints.errors import BreakerOpen, EndpointFailed, RequestRefused

with warnings.catch_warnings():  # purgatory asks setuptools for its own version number
    warnings.simplefilter("ignore")
    from purgatory import SyncCircuitBreakerFactory
    from purgatory.domain.model import OpenedState

log = logging.getLogger(__name__)


class Breaker:
    """name: in the log; failures: calls in a row that fail until it opens; pause_s: how long it stays open. Use in one event loop."""

    def __init__(self, name: str, failures: int, pause_s: float) -> None:
        self.name = name
        self.failures = failures
        self.pause_s = pause_s
        self._breaker = SyncCircuitBreakerFactory().get_breaker(name, failures, pause_s, exclude=[RequestRefused])
        self._trying = False
        self._last = ""

    @property
    def state(self) -> str:
        """`closed`, `opened` or `half-opened`."""
        return str(self._breaker.context.state)

    def check(self) -> None:
        """Raises BreakerOpen while the endpoint is being left alone."""
        remaining_s = (self._breaker.context.opened_at or 0.0) + self.pause_s - time.time()
        if self.state == "opened" and remaining_s > 0:
            raise BreakerOpen(self._why(f"tried again in {remaining_s:.0f} s"))

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Around one call. Whatever it raises counts as a failure, but for RequestRefused. Raises BreakerOpen."""
        self.check()
        if self._trying:
            raise BreakerOpen(self._why("being tried by another call"))
        trial = False
        try:
            with self._breaker:
                self._trying = trial = self.state == "half-opened"
                yield
        except OpenedState as opened:
            opened.__traceback__ = None  # the same exception object every time: it would gather tracebacks
            raise BreakerOpen(self._why("tried again in a moment")) from None
        except EndpointFailed as error:
            self._last = str(error)
            if self.state == "opened":
                log.warning("the endpoint %s is left alone for %g s: it %s", self.name, self.pause_s, error)
            raise
        finally:
            if trial:
                self._trying = False

    def _why(self, then: str) -> str:
        return f"is not asked, because {self.failures} calls in a row failed (the last one {self._last}); it is {then}"
