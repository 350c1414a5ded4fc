"""`mgrd events`: what happened to an experiment, a line each.

Neighbours: `watching` prints them. Invariant: without -f it ends with what has happened so far.
"""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.service_cli import desk, watching


def events(
    reference: Annotated[
        str, typer.Argument(metavar="ID", help="Experiment, or nothing for all (with -f).", show_default=False)
    ] = "",
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it has ended, or Ctrl-C.")] = False,
    after: Annotated[str, typer.Option(help="Id of the event to go on from.", show_default=False)] = "",
    as_json: desk.AsJson = False,
) -> None:
    """What happened to an experiment: submitted, states, stages, policy updates.

    [bold]mgrd events @last -f[/bold]   [bold]mgrd events demo-4f0c21 --json | jq .data[/bold]   [bold]mgrd events -f[/bold] for all.
    """
    with desk.connected() as client, desk.until_interrupted():
        if not reference:
            for event in client.events(after=after or ("" if follow else "0"), follow=follow):
                watching.show_event(event, as_json=as_json, name=True)
            return
        run = client.find(reference)
        for event in run.events(after=after or "0", follow=follow):
            watching.show_event(event, as_json=as_json)
