"""What the store refuses, and why; every message says what can be done.

Neighbours: `store` raises them, `api` turns them into HTTP answers, `job` ends itself on `Fenced`.
"""

from __future__ import annotations

from orchestrator.errors import MgrdError


class StoreError(MgrdError):
    """Redis does not answer within the store's patience, or refuses to work; names its address and what to look at."""


class NoSuchExperiment(MgrdError):
    """No experiment has that id; names near ones."""


class NotPossible(MgrdError):
    """What was asked can't follow the experiment's state; says what can be done instead."""


class IdTaken(MgrdError):
    """An experiment of that id exists already: choose another id."""


class KeyReused(MgrdError):
    """The idempotency key was used before with another body; names the experiment it made."""


class Fenced(MgrdError):
    """A report of an attempt that is no longer the current one: whoever sent it must stop."""
