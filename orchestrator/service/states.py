"""The life of an experiment as data: which state may follow which.

Neighbours: `store` refuses any other transition, in the same transaction that would make it; `api` tells users what can be asked.
Invariant: nothing leaves `succeeded`; what failed or was cancelled goes on only because a user resumes it.
"""

from __future__ import annotations

from orchestrator.service.messages import State

FOLLOWS: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.STARTING, State.CANCELLED, State.FAILED}),
    State.STARTING: frozenset(
        {State.RUNNING, State.QUEUED, State.PAUSED, State.SUCCEEDED, State.FAILED, State.CANCELLED}
    ),
    State.RUNNING: frozenset({State.PAUSED, State.QUEUED, State.SUCCEEDED, State.FAILED, State.CANCELLED}),
    State.PAUSED: frozenset({State.QUEUED, State.CANCELLED}),
    State.FAILED: frozenset({State.QUEUED}),
    State.CANCELLED: frozenset({State.QUEUED}),
    State.SUCCEEDED: frozenset(),
}
ACTIVE = frozenset({State.STARTING, State.RUNNING})  # hold resources, a lease and a job
ENDED = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})
RESUMABLE = frozenset({State.PAUSED, State.FAILED, State.CANCELLED})


def may_follow(before: State, after: State) -> bool:
    return after in FOLLOWS[before]
