"""A request to submit → an experiment in the store (no HTTP): checked, named, counted against the user's share, stored.

Neighbours: `experiments` and `sweeps` call it; `intake` checks the configuration. Invariants: nothing is stored before everything is
checked; with an idempotency key the same request stores once.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from orchestrator.service import store_text
from orchestrator.service.api.context import Context
from orchestrator.service.intake import Taken
from orchestrator.service.messages import Experiment, Priority, Quota, State, User
from orchestrator.service.placement import never_fits
from orchestrator.service.refusals import Refused
from orchestrator.service.store_quotas import Quotas
from orchestrator.service.user_quotas import beyond_quota

QUEUE_FULL_RETRY_S = 60
MAX_KEY = 200


@dataclass(frozen=True, slots=True)
class Wish:
    """What a user asks for, beside the configuration."""

    overrides: tuple[str, ...]
    name: str = ""
    priority: Priority = Priority.NORMAL
    tags: dict[str, str] = field(default_factory=dict)
    code: str = ""
    parent: str = ""
    cloned_from: str = ""


def store_wish(context: Context, user: User, wish: Wish, taken: Taken, key: str = "") -> tuple[Experiment, bool]:
    """(the experiment, whether it is new). Raises Refused, KeyReused, StoreError."""
    name = wish.name or slug(taken.name)
    id = new_id(name)
    experiment = Experiment(
        id=id,
        name=name,
        user=user.name,
        state=State.QUEUED,
        priority=wish.priority,
        overrides=wish.overrides,
        demand=taken.demand,
        submitted_at=0.0,
        run_dir=str(context.home.run_dir(id)),
        config_sha256="",
        tags=wish.tags,
        parent=wish.parent,
        cloned_from=wish.cloned_from,
        code=wish.code,
    )
    return context.store.submit(experiment, taken.yaml, key=key, body_sha256=digest(wish) if key else "")


def check_wish(context: Context, user: User, wish: Wish) -> None:
    """Everything but the configuration. Raises Refused."""
    if wish.code and not (context.home.code / f"{wish.code}.zip").is_file():
        raise Refused(422, f"no code {wish.code} was uploaded", field="code", hint=f"PUT /v1/code/{wish.code} first")
    if wish.parent and "admin" not in user.scopes:
        for child in context.store.list(parent=wish.parent, limit=1):
            if child.user != user.name:
                raise Refused(403, f"{wish.parent} is a sweep of {child.user}; you are {user.name}", field="parent")


def check_fits(context: Context, user: str, taken: Taken, field: str = "overrides") -> None:
    """Raises Refused for what could never start: more than the user's quota, or than the whole cluster has. A cluster that is away
    refuses nothing."""
    settings = context.settings
    everybody = Quota(settings.quota_gpus, settings.quota_cpus, settings.quota_running)
    quota = Quotas(context.store.link).all().get(user, everybody)
    beyond = beyond_quota(taken.demand, quota, user)
    if beyond:
        raise Refused(
            422, f"this plan can never run here: it {beyond}", field=field, hint="ask for less, or ask an admin"
        )
    cluster = context.capacity.cluster()
    if cluster is None or not cluster.nodes:
        return
    reason = never_fits(taken.demand, cluster.nodes)
    if reason:
        raise Refused(
            422,
            f"this plan can never run here: it {reason}",
            field=field,
            hint="lower actor.world_size, rollout.workers or rollout.tensor_parallel",
        )


def check_share(context: Context, user: User, more: int) -> None:
    """Raises Refused when the user has too many experiments waiting already."""
    limit = context.settings.quota_queued
    link = context.store.link
    keys = [link.key("state", State.QUEUED), link.base + store_text.index("user", user.name)]
    waiting: int = link.call(lambda client: client.zintercard(len(keys), keys, limit=limit + 1))
    if waiting + more > limit:
        raise Refused(
            429,
            f"{user.name} has {waiting} experiments waiting, the limit is {limit}",
            hint="wait until some have begun, or cancel some",
            retry_s=QUEUE_FULL_RETRY_S,
        )


def checked_key(key: str) -> str:
    if len(key) > MAX_KEY or not key.isprintable():
        raise Refused(
            422, f"an idempotency key has at most {MAX_KEY} printable characters", field="header.Idempotency-Key"
        )
    return key


def digest(*parts: object) -> str:
    """Of what was asked for: equal requests have equal ones."""
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()


def new_id(name: str) -> str:
    return f"{name}-{secrets.token_hex(3)}"


def slug(name: str) -> str:
    """Fit for an id and a folder."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:40] or "experiment"


def combinations(grid: dict[str, Sequence[str]]) -> list[tuple[str, ...]]:
    """Every combination of the grid as overrides, the last key changing fastest."""
    found: list[tuple[str, ...]] = [()]
    for key, values in grid.items():
        found = [(*before, f"{key}={value}") for before in found for value in values]
    return found
