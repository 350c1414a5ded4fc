"""Whether an attempt that ended early is tried again, and when.

Neighbours: `scheduler` asks after every failed attempt and writes the answer with the transition. Pure: no I/O, no clock, no dice.
Invariants: what a user or the run itself caused is never tried again; the wait grows with each try up to a cap; equal input gives an
equal answer, the jitter is drawn from the experiment's id and the try; a run that made more policy updates than at any failure before
has its whole budget again, one that makes none ends after `budget` tries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.service.messages import Cause


@dataclass(frozen=True, slots=True)
class RetrySettings:
    """budget: tries after a failure, by cause, those not named have none; first_s, factor, cap_s: the wait before the first one, its
    growth, its limit; jitter: share of the wait that is added at most, so that experiments that failed together don't return together."""

    budget: Mapping[Cause, int] = field(default_factory=lambda: {Cause.INFRASTRUCTURE: 3})
    first_s: float = 10.0
    factor: float = 2.0
    cap_s: float = 600.0
    jitter: float = 0.25


@dataclass(frozen=True, slots=True)
class Retry:
    """again: back to the queue, not before `not_before`, else it has failed for good; retry_of: key in `Experiment.retries` to count
    this try under (`Store.settle(retry_of=…)`), "" when there is none; reason: for people."""

    again: bool
    reason: str
    not_before: float = 0.0
    retry_of: str = ""


def after_failure(
    id: str,
    cause: Cause,
    retries: Mapping[str, int],
    reason: str,
    *,
    update: int,
    now: float,
    settings: RetrySettings | None = None,
) -> Retry:
    """What follows an attempt that ended early. retries: `Experiment.retries`, of which only counts under keys made here are read;
    update: policy updates done by now (`progress.update`); now: seconds since 1970 UTC."""
    settings = settings or RetrySettings()
    budget = settings.budget.get(cause, 0)
    key = f"{cause}@{max(update, _furthest(cause, retries))}"
    used = retries.get(key, 0)
    if used >= budget:
        return Retry(False, f"{reason}; given up after {_tries(used)} without a new policy update" if used else reason)
    wait_s = backoff_s(id, used, settings)
    return Retry(True, f"{reason}; tried again in {wait_s:.0f} s ({used + 1} of {budget})", now + wait_s, key)


def backoff_s(id: str, used: int, settings: RetrySettings) -> float:
    """Seconds before try number `used` + 1: from `first_s` by `factor` each time, at most `cap_s`, and up to `jitter` of it on top."""
    wait_s = min(settings.first_s, settings.cap_s)
    for _ in range(used):
        wait_s = min(wait_s * settings.factor, settings.cap_s)
        if wait_s == settings.cap_s:
            break
    digest = hashlib.sha256(f"{id}/{used}".encode()).digest()
    return wait_s * (1.0 + settings.jitter * int.from_bytes(digest[:8], "big") / 2**64)


def _furthest(cause: Cause, retries: Mapping[str, int]) -> int:
    """The most policy updates at any failure of this cause that was counted: keys are `cause@updates`."""
    at = (key.removeprefix(f"{cause}@") for key in retries if key.startswith(f"{cause}@"))
    return max((int(updates) for updates in at if updates.isdecimal()), default=0)


def _tries(count: int) -> str:
    return "one more try" if count == 1 else f"{count} more tries"
