"""`mgrd sweep`: many experiments of one submit, by a grid of values or a list.

Neighbours: `service.overrides` tells swept values from lists. Invariant: all are queued, or none is.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.errors import MgrdError
from orchestrator.service.overrides import grid_of
from orchestrator.service_cli import desk
from orchestrator.service_cli.ps import table


def sweep(
    overrides: desk.Overrides = None,
    *,
    points: Annotated[
        Path | None,
        typer.Option("--list", help="File with the overrides of one experiment a line.", show_default=False),
    ] = None,
    code: Annotated[
        Path | None, typer.Option(help="Folder that travels with each, as of submit.", show_default=False)
    ] = None,
    priority: desk.Priority = "normal",
    name: desk.Name = "",
    tag: desk.Tags = None,
    as_json: desk.AsJson = False,
) -> None:
    """Queue every combination of values: key=1,2,3 is swept, key=[1,2] is a list.

    [bold]mgrd sweep experiment=demo run.seed=1,2,3 actor.actor_optim.lr=1e-5,5e-5[/bold] queues six experiments.

    [bold]mgrd sweep experiment=demo --list points.txt[/bold], with a line such as `run.seed=1 actor.actor_optim.lr=1e-5` for each.
    `mgrd ps --sweep PARENT` shows them together.
    """
    with desk.connected() as client:
        fixed, grid = grid_of(overrides or []) if points is None else (overrides or [], {})
        if points is None and not grid:
            raise MgrdError("nothing is swept: give a key several values, as in run.seed=1,2,3, or --list FILE")
        made = client.sweep(
            "",
            fixed,
            grid=grid,
            points=_lines(points) if points else None,
            name=name,
            priority=priority,
            tags=desk.tags_of(tag),
            code=code or "",
        )
    if as_json:
        desk.print_json({"parent": made.parent, "experiments": [run.experiment for run in made.runs]})
        return
    desk.say(f"[bold]{made.parent}[/bold]: {len(made.runs)} experiments; `mgrd ps --sweep {made.parent}` shows them")
    desk.console.print(table([run.experiment for run in made.runs]))


def _lines(path: Path) -> list[list[str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MgrdError(f"{path} can't be read: {error}") from error
    found = []
    for number, line in enumerate(lines, 1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise MgrdError(f"{path}:{number}: {error}") from error
        if words:
            found.append(words)
    if not found:
        raise MgrdError(f"{path} names no experiment: write the overrides of one a line")
    return found
