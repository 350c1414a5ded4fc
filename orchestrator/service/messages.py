"""What the service's parts tell each other: an experiment, its demand, its progress, an event.

Neighbours: `store` keeps them in Redis, `scheduler` and `job` change them, `api` shows them, `client` reads them back. Invariants: frozen;
plain values only, so that each goes through JSON unchanged; times are seconds since 1970 UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from orchestrator.demand import Bundle, Demand


class State(StrEnum):
    """Where an experiment is; `states.py` says what may follow what."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Wanted(StrEnum):
    """What a user has asked of an experiment that holds resources, and what is not done yet."""

    NOTHING = ""
    PAUSE = "pause"
    CANCEL = "cancel"


class Cause(StrEnum):
    """Why an attempt ended early: decides whether it is tried again."""

    NONE = ""
    USER = "user"  # refused input: never tried again
    RUN = "run"  # the run itself failed, and would again
    INFRASTRUCTURE = "infrastructure"  # a process, machine or server was lost: tried again, with back-off and a budget


class Priority(StrEnum):
    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is. stage: the one at work; stages_done of stages_total; update of updates_total: policy updates of the whole
    run; reward, accuracy: means of the last policy update; tokens_per_s: sampled; invalid_share: of its verdicts;
    reward_p95_s: scoring time; eta_s: estimate of what is left, None while there is nothing to go by; at: when it was told; plan: names of
    all stages, in order."""

    stage: str = ""
    stages_done: int = 0
    stages_total: int = 0
    update: int = 0
    updates_total: int = 0
    reward: float | None = None
    accuracy: float | None = None
    tokens_per_s: float | None = None
    invalid_share: float | None = None
    reward_p95_s: float | None = None
    eta_s: float | None = None
    at: float = 0.0
    plan: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Experiment:
    """One submitted experiment as the store holds it.

    id: NAME-xxxxxx, unique; overrides: as submitted (`experiment=demo`, `run.seed=7`), later ones of `resume` appended; tags: the
    user's; demand: what it holds while it runs; attempt: number of launches so far, the fencing token of the job's own reports;
    lease, owner, lease_until: fencing token, name and end of the scheduler's hold; not_before: earliest next launch (back-off);
    queued_at: when it was submitted or its user resumed it, its place in the queue, which a failure of infrastructure and a stop of
    the service leave as it is; first_started_at: its first start since then; started_at: that of its present or last attempt;
    retries: launches by cause after a failure; wanted: what its user has asked for; reason, cause: why it is where it is;
    parent: id of a sweep or ""; code: SHA-256 of the user code that travels with it or ""; run_dir: of its files; config_sha256:
    of the resolved configuration (`Store.config`); mlflow_run, mlflow_url: its record, "" before it has one.
    """

    id: str
    name: str
    user: str
    state: State
    priority: Priority
    overrides: tuple[str, ...]
    demand: Demand
    submitted_at: float
    run_dir: str
    config_sha256: str
    tags: dict[str, str] = field(default_factory=dict)
    parent: str = ""
    cloned_from: str = ""
    code: str = ""
    wanted: Wanted = Wanted.NOTHING
    attempt: int = 0
    owner: str = ""
    lease: int = 0
    lease_until: float = 0.0
    not_before: float = 0.0
    queued_at: float = 0.0
    first_started_at: float = 0.0
    started_at: float = 0.0
    ended_at: float = 0.0
    retries: dict[str, int] = field(default_factory=dict)
    reason: str = ""
    cause: Cause = Cause.NONE
    job: str = ""
    mlflow_run: str = ""
    mlflow_url: str = ""
    progress: Progress = field(default_factory=Progress)


@dataclass(frozen=True, slots=True)
class PastRun:
    """What is left to the scheduler of an experiment that has started and ended: a turn that its user has had."""

    id: str
    user: str
    queued_at: float
    first_started_at: float


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to an experiment. id: grows, names a place to go on from; kind: submitted | state | stage | update |
    note | wanted; data: by kind, see docs/SERVICE.md."""

    id: str
    experiment: str
    kind: str
    at: float
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class SampledTrajectory:
    """One of a run's last sampled responses, for people. clips: SHA-256 and path of each recording; score None: invalid, with reason."""

    id: str
    update: int
    stage: str
    question: str
    choices: tuple[str, ...]
    answer: str
    reasoning: str
    reply: str
    correct: bool
    score: float | None
    reason: str
    components: dict[str, float]
    clips: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Quota:
    """What one user may hold at a time: devices, cores, experiments that start or run. 0: no limit."""

    gpus: float = 0.0
    cpus: float = 0.0
    running: int = 0


@dataclass(frozen=True, slots=True)
class User:
    """Who asks. scopes: read | submit | admin; token: id of the bearer token, "" on a service without tokens."""

    name: str
    scopes: tuple[str, ...]
    token: str = ""


@dataclass(frozen=True, slots=True)
class Token:
    """What is kept of a token. Times: seconds since 1970; 0: never (expires_at, revoked_at, used_at)."""

    id: str
    name: str
    user: str
    scope: str
    created_at: float
    expires_at: float = 0.0
    revoked_at: float = 0.0
    used_at: float = 0.0


@dataclass(frozen=True, slots=True)
class AuditLine:
    """id: grows; by: user; deed: `submit`, `cancel`, …; target: what it was done to; outcome: `done` or why not; address: of the caller."""

    id: str
    by: str
    deed: str
    target: str
    outcome: str
    at: float
    address: str = ""


__all__ = [
    "AuditLine",
    "Bundle",
    "Cause",
    "Demand",
    "Event",
    "Experiment",
    "PastRun",
    "Priority",
    "Progress",
    "Quota",
    "SampledTrajectory",
    "State",
    "Token",
    "User",
    "Wanted",
]
