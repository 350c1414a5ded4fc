"""`mgrd submit`: queue an experiment, get its id at once.

Neighbours: the client sends, `watching` follows. Invariant: without --wait and --follow it returns as soon as the service has stored it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.service_cli import desk, watching, words


def submit(
    overrides: desk.Overrides = None,
    *,
    priority: desk.Priority = "normal",
    name: desk.Name = "",
    tag: desk.Tags = None,
    code: Annotated[
        Path | None,
        typer.Option(help="Folder with your rewards or readers; it travels with the experiment.", show_default=False),
    ] = None,
    key: Annotated[
        str, typer.Option(help="Idempotency key: equal submits with one key are one experiment.", show_default=False)
    ] = "",
    wait: Annotated[
        bool, typer.Option("--wait", help="Return when it has ended; exit code as of `mgrd wait`.")
    ] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print what happens until it has ended.")] = False,
    as_json: desk.AsJson = False,
) -> None:
    """Queue an experiment on the service and print its id.

    [bold]mgrd submit experiment=mgrd_tiny actor.actor_optim.lr=1e-6 --priority high --name low-lr --tag team=audio[/bold]

    The configuration is checked before it is stored: a misspelt key is refused with the nearest name, a plan that can never fit with the
    reason. [bold]mgrd submit experiment=demo --code my_code/[/bold] takes a folder along; caches and .git stay at home, and so does what
    its .mgrdignore names.
    """
    with desk.connected() as client:
        run = client.submit(
            "", overrides or [], priority=priority, name=name, tags=desk.tags_of(tag), code=code or "", key=key
        )
        if as_json and not follow:
            if not wait:
                desk.print_json(run.experiment)
        elif not as_json:
            held = words.resources(run.experiment)
            desk.say(f"[bold]{run.id}[/bold] is {words.state(run.experiment)}" + (f", asks for {held}" if held else ""))
        if follow:
            watching.follow(run, as_json=as_json)
            raise typer.Exit(watching.code_of(run.refresh().experiment))
        if wait:
            run.wait()
            if as_json:
                desk.print_json(run.experiment)
            else:
                desk.say(watching.report(run.experiment))
            raise typer.Exit(watching.code_of(run.experiment))
