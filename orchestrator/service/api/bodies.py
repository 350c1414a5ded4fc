"""What is sent to the API, checked field by field, and the answers that are more than one message.

Neighbours: the routers take and return them; `/docs` shows them. Invariant: an unknown field is refused, so that a misspelt one is never
ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from orchestrator.service.answers import PolicyUpdate
from orchestrator.service.api.context import ID_PATTERN, SHA256_PATTERN
from orchestrator.service.messages import Demand, Experiment, Priority, SampledTrajectory
from orchestrator.service.override_rules import MAX_CHARS
from orchestrator.service.placement import Node
from orchestrator.service.queue_view import Waiting
from orchestrator.service.tokens import AuditLine, Token

MAX_CHILDREN = 256  # of one sweep
Name = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$")]
UserName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]
Overrides = Annotated[
    list[str],
    Field(
        max_length=1000,
        description=f"`key=value` each, as `mgrd run` takes them; at most 200, of at most {MAX_CHARS} characters.",
        examples=[["experiment=demo", "run.seed=7"]],
    ),
]
Tags = Annotated[
    dict[
        Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,63}$")],
        Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{0,256}$")],
    ],
    Field(max_length=32, description="The user's own words, to find experiments by."),
]
Code = Annotated[str, StringConstraints(pattern=rf"^$|{SHA256_PATTERN}")]
Parent = Annotated[str, StringConstraints(pattern=rf"^$|{ID_PATTERN}")]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Submit(Strict):
    overrides: Overrides = []
    name: Name = Field("", description="Begins the id; empty: run.name of the configuration.")
    priority: Priority = Priority.NORMAL
    tags: Tags = {}
    code: Code = Field("", description="SHA-256 of user code that was uploaded with PUT /v1/code/{sha256}.")
    parent: Parent = Field("", description="Id of a sweep that this belongs to.")


class Resume(Strict):
    overrides: Overrides = []


class Clone(Strict):
    overrides: Overrides = []
    name: Name = ""


class Sweep(Strict):
    """grid: every combination of the values, or list: sets of overrides, one an experiment; one of the two."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"overrides": ["experiment=demo"], "grid": {"run.seed": [1, 2, 3]}}]},
    )
    overrides: Overrides = []
    grid: dict[str, list[JsonValue]] | None = Field(None, max_length=16)
    list_: list[Overrides] | None = Field(None, alias="list", max_length=MAX_CHILDREN)
    name: Name = ""
    priority: Priority = Priority.NORMAL
    tags: Tags = {}
    code: Code = ""


class NewTokenBody(Strict):
    name: Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{0,100}$")] = Field(
        "", description="What it is for."
    )
    user: UserName
    scope: Literal["read", "submit", "admin"] = Field("read", description="Each contains those before it.")
    expires_s: float = Field(0.0, ge=0, le=10 * 365 * 86400, allow_inf_nan=False, description="From now; 0: never.")


@dataclass(frozen=True, slots=True)
class Experiments:
    experiments: list[Experiment]


@dataclass(frozen=True, slots=True)
class Updates:
    updates: list[PolicyUpdate]


@dataclass(frozen=True, slots=True)
class Samples:
    samples: list[SampledTrajectory]


@dataclass(frozen=True, slots=True)
class Components:
    components: list[str]


@dataclass(frozen=True, slots=True)
class Tokens:
    tokens: list[Token]


@dataclass(frozen=True, slots=True)
class NewToken:
    """secret: the token as it is sent; it is shown once."""

    token: Token
    secret: str


@dataclass(frozen=True, slots=True)
class Audit:
    entries: list[AuditLine]


@dataclass(frozen=True, slots=True)
class Amounts:
    """gpus: devices; cpus: cores; memory_gib: of the hosts."""

    cpus: float = 0.0
    gpus: float = 0.0
    memory_gib: float = 0.0


@dataclass(frozen=True, slots=True)
class ClusterView:
    """nodes: machines; total, free: sums over them; demand: what waits in the queue; active: ids that start or run; problem: why
    nothing is known of the cluster, "" when it is."""

    nodes: list[Node]
    total: Amounts
    free: Amounts
    queued: int
    demand: Amounts
    active: list[str]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Queue:
    """The front of the queue, in its order, as the last decision saw it; empty while no scheduler decides."""

    waiting: list[Waiting]


@dataclass(frozen=True, slots=True)
class Uploaded:
    """created: it was not there before."""

    sha256: str
    bytes: int
    files: int
    created: bool


@dataclass(frozen=True, slots=True)
class Health:
    status: str


@dataclass(frozen=True, slots=True)
class Ready:
    """parts: `ok` or what is wrong with each: redis, scheduler, mlflow, scoring."""

    status: str
    parts: dict[str, str]


def amounts(demands: list[Demand]) -> Amounts:
    return Amounts(
        sum(demand.cpus for demand in demands),
        sum(demand.gpus for demand in demands),
        sum(demand.memory_gib for demand in demands),
    )


Json = dict[str, Any]
