"""Routes of sweeps: many experiments under one parent.

Neighbours: `submitting` stores each child, `lineage` gives them a parent in MLflow. Invariants: every child is checked before the first is
stored; with an idempotency key a repeated or interrupted request ends with the same children.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from orchestrator.errors import ConfigError
from orchestrator.service.access import Submitter
from orchestrator.service.answers import SweepAnswer
from orchestrator.service.api.bodies import MAX_CHILDREN, Sweep
from orchestrator.service.api.context import Here, answer
from orchestrator.service.api.experiments import Key
from orchestrator.service.api.problems import errors
from orchestrator.service.api.submitting import (
    Wish,
    check_fits,
    check_share,
    check_wish,
    checked_key,
    combinations,
    digest,
    new_id,
    slug,
    store_wish,
)
from orchestrator.service.intake import take
from orchestrator.service.overrides import as_text
from orchestrator.service.refusals import Refused

router = APIRouter(prefix="/v1", tags=["sweeps"])
REPEATED: dict[int | str, dict[str, Any]] = {
    200: {"model": SweepAnswer, "description": "This key submitted it before."}
}


@router.post("/sweeps", status_code=201, response_model=SweepAnswer, responses={**REPEATED, **errors(409)})
def sweep(body: Sweep, request: Request, here: Here, user: Submitter, key: Key = "") -> Response:
    """One experiment a combination (or entry of the list), all under one parent: `GET /v1/experiments?parent=…`."""
    with here.access.audited(request, user, "sweep", body.name) as deed:
        checked_key(key)
        points = _points(body)
        taken = []
        for place, point in points:
            overrides = (*body.overrides, *point)
            one = take(overrides, here.roots, code=bool(body.code), field=place)
            check_fits(here, user.name, one, place)
            taken.append((overrides, one))
        name = body.name or slug(taken[0][1].name)
        parent = f"{name}-{digest(user.name, key)[:6]}" if key else new_id(name)
        wishes = [Wish(o, body.name, body.priority, body.tags, body.code, parent) for o, _ in taken]
        check_wish(here, user, wishes[0])
        check_share(here, user, len(wishes))
        made = [
            store_wish(here, user, wish, one, f"{key}/{index}" if key else "")
            for index, (wish, (_, one)) in enumerate(zip(wishes, taken, strict=True))
        ]
        deed.target = f"{parent}: {len(made)} experiments"
    return answer(SweepAnswer(parent, tuple(one for one, _ in made)), 201 if any(new for _, new in made) else 200)


def _points(body: Sweep) -> list[tuple[str, Sequence[str]]]:
    """(place in the request, overrides of one child). Raises Refused."""
    if (body.grid is None) == (body.list_ is None):
        raise Refused(422, "a sweep has a grid or a list, one of the two", field="grid")
    if body.list_ is not None:
        if not body.list_:
            raise Refused(422, "the list is empty", field="list", hint="give at least one set of overrides")
        return [(f"list[{index}]", point) for index, point in enumerate(body.list_)]
    grid = body.grid or {}
    empty = [key for key, values in grid.items() if not values]
    if not grid or empty:
        raise Refused(422, "a grid needs values for every key", field=f"grid.{empty[0]}" if empty else "grid")
    count = prod(len(values) for values in grid.values())
    if count > MAX_CHILDREN:
        raise Refused(
            422, f"{count} combinations, the limit is {MAX_CHILDREN}", field="grid", hint="sweep over fewer values"
        )
    return [("grid", point) for point in combinations({key: _texts(key, values) for key, values in grid.items()})]


def _texts(key: str, values: Sequence[object]) -> list[str]:
    """Text is taken as it would be typed, numbers and lists in the grammar of overrides."""
    try:
        return [value if isinstance(value, str) else as_text(value) for value in values]  # type: ignore[arg-type]
    except ConfigError as error:
        raise Refused(422, str(error), field=f"grid.{key}") from error
