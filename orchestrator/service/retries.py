"""Whether an attempt that ended early is tried again, and when.

Neighbours: `scheduler` asks after every failed attempt and writes the answer with the transition. Pure: no I/O, no clock, no dice.
Invariants: what a user or the run itself caused is never tried again; the wait grows with each try up to a cap; equal input gives an
equal answer, the jitter is drawn from the experiment's id and the try; a run that made policy updates since its last failure starts
with a whole budget again, one that makes none ends after at most `budget` tries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.service.messages import Cause

UPDATE = "update"  # key in `Experiment.retries` beside the causes: policy updates at the last failure


@dataclass(frozen=True, slots=True)
class RetrySettings:
    """budget: tries after a failure, by cause, those not named have none; first_s, factor, cap_s: the wait before the first one, its
    growth, its limit; jitter: share of the wait that is added at most, so that experiments that failed together don't return together."""

    budget: Mapping[Cause, int] = field(default_factory=lambda: {Cause.INFRASTRUCTURE: 5})
    first_s: float = 10.0
    factor: float = 2.0
    cap_s: float = 600.0
    jitter: float = 0.25


@dataclass(frozen=True, slots=True)
class Retry:
    """again: back to the queue, not before `not_before`, else it has failed for good; retries: to be kept with the experiment; reason:
    for people."""

    again: bool
    not_before: float
    retries: dict[str, int]
    reason: str


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
    """What follows an attempt that ended early. retries: `Experiment.retries`; update: policy updates done by now
    (`progress.update`); now: seconds since 1970 UTC."""
    settings = settings or RetrySettings()
    got_on = update > retries.get(UPDATE, 0)
    used = 0 if got_on else retries.get(cause, 0)
    budget = settings.budget.get(cause, 0)
    if used >= budget:
        tries = f" (tried again {used} times without a policy update)" if used else ""
        return Retry(False, 0.0, dict(retries), f"{reason}{tries}")
    wait_s = backoff_s(id, used, settings)
    kept = {**({} if got_on else retries), str(cause): used + 1, UPDATE: update}
    return Retry(
        True,
        now + wait_s,
        kept,
        f"{reason}; tried again in {wait_s:.0f} s ({used + 1} of {budget})",
    )


def backoff_s(id: str, used: int, settings: RetrySettings) -> float:
    """Seconds before try number `used` + 1: from `first_s` by `factor` each time, at most `cap_s`, and up to `jitter` of it on top."""
    wait_s = settings.first_s
    for _ in range(used):
        wait_s *= settings.factor
        if wait_s >= settings.cap_s:
            break
    digest = hashlib.sha256(f"{id}/{used}".encode()).digest()
    return min(wait_s, settings.cap_s) * (1.0 + settings.jitter * int.from_bytes(digest[:8], "big") / 2**64)
