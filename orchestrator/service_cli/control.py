"""`mgrd cancel`, `pause`, `clone`, and the service's half of `resume`: what changes an experiment.

Neighbours: the service decides what is possible in which state and says so. Invariant: each prints the experiment as it is afterwards.
"""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.service.messages import Experiment, Wanted
from orchestrator.service_cli import desk, watching, words

References = Annotated[
    list[str],
    typer.Argument(metavar="ID", help="Experiments: ids, their beginnings or ends, @last.", show_default=False),
]
Wait = Annotated[bool, typer.Option("--wait", help="Return when nothing of it runs any more.")]


def cancel(references: References, *, wait: Wait = False, as_json: desk.AsJson = False) -> None:
    """Cancel experiments: at once where nothing runs, else within some seconds; what was trained stays.

    [bold]mgrd cancel demo-4f0c21[/bold]   [bold]mgrd cancel @last --wait[/bold]   `mgrd resume ID` takes it back.
    """
    with desk.connected() as client:
        for reference in references:
            run = client.find(reference).cancel()
            _shown((run.wait() if wait else run).experiment, as_json)


def pause(references: References, *, wait: Wait = False, as_json: desk.AsJson = False) -> None:
    """Pause experiments at the next point from which they can go on; their machines become free.

    [bold]mgrd pause demo-4f0c21 --wait[/bold]   `mgrd resume ID` lets them go on.
    """
    with desk.connected() as client:
        for reference in references:
            run = client.find(reference).pause()
            _shown((run.wait() if wait else run).experiment, as_json)


def resume_experiment(reference: str, overrides: list[str], *, follow: bool, as_json: bool) -> None:
    """Queue a paused, failed or cancelled experiment again."""
    with desk.connected() as client:
        run = client.find(reference).resume(overrides)
        if not (follow and as_json):
            _shown(run.experiment, as_json)
        if follow:
            started = run.experiment.queued_at
            watching.follow(run, as_json=as_json, after=f"{int(started * 1000) - 1}-0")
            raise typer.Exit(watching.code_of(run.refresh().experiment))


def clone(
    reference: desk.Reference,
    overrides: desk.Overrides = None,
    *,
    name: desk.Name = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print what happens until it has ended.")] = False,
    as_json: desk.AsJson = False,
) -> None:
    """Queue an experiment of the same configuration, with changed keys.

    [bold]mgrd clone demo-4f0c21 run.seed=12 --name seed12[/bold]
    """
    with desk.connected() as client:
        run = client.find(reference).clone(overrides or [], name=name)
        if not (follow and as_json):
            _shown(run.experiment, as_json)
        if follow:
            watching.follow(run, as_json=as_json)
            raise typer.Exit(watching.code_of(run.refresh().experiment))


def _shown(experiment: Experiment, as_json: bool) -> None:
    if as_json:
        desk.print_line(experiment)
        return
    soon = "" if experiment.wanted is Wanted.NOTHING else "; it takes effect within some seconds"
    desk.say(f"[bold]{experiment.id}[/bold] is {words.state(experiment)}{soon}")
