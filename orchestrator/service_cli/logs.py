"""`mgrd logs`: what a component of an experiment has written.

Neighbours: the client streams. Invariant: lines go to standard output unchanged, so that they can be piped.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from orchestrator.service_cli import desk


def logs(
    reference: desk.Reference,
    *,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the experiment has ended, or Ctrl-C.")
    ] = False,
    component: Annotated[
        str, typer.Option("--component", "-c", help="driver, rollout/0, trainer/0, rewards/0, …")
    ] = "driver",
    tail: Annotated[
        int | None,
        typer.Option(min=0, help="The last so many lines, at most 100,000; default 200.", show_default=False),
    ] = None,
    components: Annotated[bool, typer.Option("--components", help="List the components that have a log.")] = False,
    as_json: desk.AsJson = False,
) -> None:
    """Print the log of a component of an experiment.

    [bold]mgrd logs @last -f[/bold]   [bold]mgrd logs demo-4f0c21 --component rollout/0 --tail 50[/bold]
    """
    with desk.connected() as client:
        run = client.find(reference)
        if components:
            names = run.log_components()
            if as_json:
                desk.print_json({"components": names})
            else:
                desk.say("\n".join(names) or "no component has written a log yet")
            return
        with desk.until_interrupted():
            for line in run.logs(component, tail=tail, follow=follow):
                if as_json:
                    desk.print_line({"component": component, "line": line})
                else:
                    sys.stdout.write(line + "\n")
                    sys.stdout.flush()
