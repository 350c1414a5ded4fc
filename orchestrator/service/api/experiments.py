"""Routes of experiments: submit, find, look at, cancel, pause, resume, clone.

Neighbours: `submitting` checks and stores, the store decides what may follow what, `files` and `watching` serve what a run leaves behind.
Invariants: an answer is the experiment as it is now; nothing is launched here; only its user or an admin changes an experiment.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Query, Request
from fastapi.responses import Response

from orchestrator.config.compose import flat
from orchestrator.service.access import Reader, Submitter
from orchestrator.service.answers import StoredConfig
from orchestrator.service.api.bodies import Clone, Experiments, Resume, Submit
from orchestrator.service.api.context import ID_PATTERN, Context, Here, Id, answer
from orchestrator.service.api.problems import errors
from orchestrator.service.api.submitting import Wish, check_fits, check_share, check_wish, checked_key, store_wish
from orchestrator.service.intake import config_of, take, take_changed
from orchestrator.service.messages import Experiment, State, User, Wanted
from orchestrator.service.states import RESUMABLE

router = APIRouter(prefix="/v1", tags=["experiments"])
Key = Annotated[
    str, Header(alias="Idempotency-Key", description="The same key and body within a day submit once.", max_length=200)
]
REPEATED: dict[int | str, dict[str, Any]] = {200: {"model": Experiment, "description": "This key submitted it before."}}
EMPTY_OR = "^$|"


@router.post("/experiments", status_code=201, response_model=Experiment, responses={**REPEATED, **errors(409)})
def submit(body: Submit, request: Request, here: Here, user: Submitter, key: Key = "") -> Response:
    """Checks the configuration, stores the experiment, answers at once; a scheduler starts it when there is room."""
    wish = Wish(tuple(body.overrides), body.name, body.priority, body.tags, body.code, body.parent)
    with here.access.audited(request, user, "submit", body.name) as deed:
        checked_key(key)
        check_wish(here, user, wish)
        taken = take(wish.overrides, here.roots, code=bool(wish.code))
        check_fits(here, user.name, taken)
        check_share(here, user, 1)
        experiment, new = store_wish(here, user, wish, taken, key)
        deed.target = experiment.id
    return answer(experiment, 201 if new else 200)


@router.get("/experiments", response_model=Experiments, responses=errors(404))
def experiments(
    *,
    here: Here,
    _: Reader,
    state: Annotated[list[State], Query(description="Any of these; none: all.", max_length=10)] = [],  # noqa: B006
    user: Annotated[str, Query(max_length=64)] = "",
    tag: Annotated[str, Query(max_length=330, description="`key:value`", pattern="^$|^[^:]+:")] = "",
    parent: Annotated[str, Query(pattern=EMPTY_OR + ID_PATTERN)] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    before: Annotated[str, Query(pattern=EMPTY_OR + ID_PATTERN, description="Id: those submitted before it.")] = "",
) -> Response:
    """Newest first."""
    name, _colon, value = tag.partition(":")
    found = here.store.list(
        states=state, user=user, tag=(name, value) if tag else None, parent=parent, limit=limit, before=before
    )
    return answer({"experiments": found})


@router.get("/experiments/{id}", response_model=Experiment, responses=errors(404))
def experiment(id: Id, here: Here, _: Reader) -> Response:
    """As it is now; of one that waits, `reason` says what for."""
    found = here.store.get(id)
    if found.state is State.QUEUED and not found.reason:
        found = replace(found, reason=next((one.reason for one in here.queue.all() if one.id == id), ""))
    return answer(found)


@router.get("/experiments/{id}/config", response_model=StoredConfig, responses=errors(404))
def config(id: Id, here: Here, _: Reader) -> Response:
    """The resolved configuration: as YAML, which reruns the experiment exactly, and key by key."""
    yaml = here.store.config(here.store.get(id).config_sha256)
    return answer(StoredConfig(yaml, flat(config_of(yaml))))


@router.post("/experiments/{id}:cancel", response_model=Experiment, responses=errors(404, 409))
def cancel(id: Id, request: Request, here: Here, user: Submitter) -> Response:
    """At once where nothing runs; else its processes are gone within 20 s, and the state says so."""
    return answer(_ask(here, request, user, id, Wanted.CANCEL))


@router.post("/experiments/{id}:pause", response_model=Experiment, responses=errors(404, 409))
def pause(id: Id, request: Request, here: Here, user: Submitter) -> Response:
    """At its next policy update or stage, with a checkpoint."""
    return answer(_ask(here, request, user, id, Wanted.PAUSE))


@router.post("/experiments/{id}:resume", response_model=Experiment, responses=errors(404, 409))
def resume(
    id: Id, request: Request, here: Here, user: Submitter, body: Annotated[Resume | None, Body()] = None
) -> Response:
    """Back into the queue; it goes on from its last checkpoint, with single keys changed by `overrides`."""
    given = body.overrides if body else []
    with here.access.audited(request, user, "resume", id):
        found = here.store.get(id)
        here.access.owns(user, found)
        if not given or found.state not in RESUMABLE:
            return answer(here.store.resume(id, user.name))
        yaml = here.store.config(found.config_sha256)
        taken = take_changed(yaml, given, here.roots, code=bool(found.code))
        check_fits(here, found.user, taken)
        resumed = here.store.resume(id, user.name, overrides=tuple(given), config_yaml=taken.yaml, demand=taken.demand)
        return answer(resumed)


@router.post(
    "/experiments/{id}:clone", status_code=201, response_model=Experiment, responses={**REPEATED, **errors(404, 409)}
)
def clone(
    *,
    id: Id,
    request: Request,
    here: Here,
    user: Submitter,
    body: Annotated[Clone | None, Body()] = None,
    key: Key = "",
) -> Response:
    """Another experiment with the same resolved configuration, but for the keys in `overrides`; it begins anew, as the caller's own."""
    asked = body or Clone()
    with here.access.audited(request, user, "clone", id) as deed:
        checked_key(key)
        source = here.store.get(id)
        wish = Wish(
            overrides=(*source.overrides, *asked.overrides),
            name=asked.name or source.name,
            priority=source.priority,
            tags=source.tags,
            code=source.code,
            cloned_from=source.id,
        )
        check_wish(here, user, wish)
        yaml = here.store.config(source.config_sha256)
        taken = take_changed(yaml, asked.overrides, here.roots, code=bool(source.code), clone=True)
        check_fits(here, user.name, taken)
        check_share(here, user, 1)
        made, new = store_wish(here, user, wish, taken, key)
        deed.target = f"{id} as {made.id}"
    return answer(made, 201 if new else 200)


def _ask(here: Context, request: Request, user: User, id: str, wanted: Wanted) -> Experiment:
    with here.access.audited(request, user, wanted.value, id):
        here.access.owns(user, here.store.get(id))
        return here.store.ask(id, wanted, user.name)
