"""Why a run ended, in the service's words: the state it is left in, and whose doing it was.

Neighbours: `job` asks this of whatever its run raised; `retries` decides by the cause. Invariants: what a user can mend is the user's,
what would happen again is the run's, what another machine or another hour would mend is infrastructure's; only that is tried again.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.errors import ConfigError, NotNow, PreflightError, RunPaused
from orchestrator.service.messages import Cause, State


@dataclass(frozen=True, slots=True)
class Ending:
    """state: what it ended as; for infrastructure, what it becomes when no try is left."""

    state: State
    cause: Cause
    reason: str


def ending_of(error: BaseException) -> Ending:
    """Anything not listed is the run's own failure: it would fail again."""
    from orchestrator.datasets import DataError
    from orchestrator.gang import NoPlace
    from orchestrator.processes import ServiceError
    from orchestrator.service.store_errors import StoreError
    from orchestrator.spool import TrackingError
    from rollout import AudioError, EngineDied, LedgerError

    reason = f"{type(error).__name__}: {error}" if not isinstance(error, RunPaused) else str(error)
    if isinstance(error, RunPaused):
        return Ending(State.PAUSED, Cause.NONE, reason)
    away = (NotNow, NoPlace, ServiceError, StoreError, TrackingError, LedgerError, EngineDied, ConnectionError)
    if isinstance(error, away) or _rank_was_lost(error) or _is_rays_own(error):
        return Ending(State.FAILED, Cause.INFRASTRUCTURE, reason)
    if isinstance(error, (PreflightError, ConfigError, DataError, AudioError)):
        return Ending(State.FAILED, Cause.USER, str(error))
    return Ending(State.FAILED, Cause.RUN, reason)


def _rank_was_lost(error: BaseException) -> bool:
    """A trainer rank that raised would raise again; one that died or fell silent may not."""
    from actor import TrainerDied

    return isinstance(error, TrainerDied) and error.was_lost


def _is_rays_own(error: BaseException) -> bool:
    from ray.exceptions import RayError, RayTaskError

    return isinstance(error, RayError) and not isinstance(error, RayTaskError)
