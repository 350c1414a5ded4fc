"""Bringing running experiments to a stop when the service stops, and back into the queue for its next start.

Neighbours: the supervisor calls it, schedulers are gone by then; the jobs themselves see what is wanted and pause at a checkpoint.
Invariants: what a user has asked for (pause, cancel) holds; nothing is queued again before its job is known to have ended; which
experiments were asked is written down first, so that a stop that is cut off can be made good at the next start.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence

from orchestrator.service.messages import State, Wanted
from orchestrator.service.store import Store
from orchestrator.service.store_errors import NoSuchExperiment, NotPossible

BY = "the service's stop"
REASON = "the service was stopped; it goes on from its last checkpoint when the service runs again"
POLL_S = 0.2

log = logging.getLogger(__name__)


def to_ask(store: Store) -> list[str]:
    """Active experiments of which nobody has asked anything yet."""
    return [one.id for one in store.active() if one.wanted is Wanted.NOTHING]


def ask_to_pause(store: Store, ids: Iterable[str]) -> None:
    for id in ids:
        try:
            store.ask(id, Wanted.PAUSE, BY)
        except (NotPossible, NoSuchExperiment) as error:
            log.info("%s", error)  # it has ended meanwhile


def wait_until_still(store: Store, limit_s: float, hurry: Callable[[], bool] = lambda: False) -> bool:
    """Until no experiment holds a job any more; False: some still do after limit_s, or when hurry said so."""
    deadline = time.monotonic() + limit_s
    while store.active():
        if time.monotonic() > deadline or hurry():
            return False
        time.sleep(POLL_S)
    return True


def settle_without_jobs(store: Store) -> list[str]:
    """Every job has ended with Ray, and no scheduler is left to say so. Returns the ids."""
    settled = []
    for one in store.active():
        if store.settle(one.id, one.lease, State.QUEUED, reason=REASON) is not None:
            settled.append(one.id)
    return settled


def queue_again(store: Store, asked: Sequence[str]) -> list[str]:
    """Those that paused because of `ask_to_pause`, and those that never got to it: the request is taken back. Returns what is queued."""
    queued = []
    for id in asked:
        try:
            state = store.get(id).state
            if state is State.PAUSED:
                store.resume(id, BY, keeps_place=True)
                queued.append(id)
            elif state in (State.STARTING, State.RUNNING):
                store.ask(id, Wanted.NOTHING, BY)
            elif state is State.QUEUED:
                queued.append(id)
        except (NotPossible, NoSuchExperiment) as error:
            log.info("%s", error)  # its user was faster
    return queued
