"""`mgrd wait`: until experiments have ended; for scripts.

Neighbours: `watching` knows the exit codes. Invariant: the worst outcome decides: failed or cancelled 1, then timeout 124, then paused 3.
"""

from __future__ import annotations

import time
from typing import Annotated

import typer

from orchestrator.service_cli import desk, watching
from orchestrator.service_cli.control import References

WORST_FIRST = (desk.FAILED, desk.TIMED_OUT, desk.PAUSED, 0)


def wait(
    references: References,
    *,
    timeout: Annotated[float | None, typer.Option(help="At most so many seconds for all.", show_default=False)] = None,
    as_json: desk.AsJson = False,
) -> None:
    """Wait until experiments have ended or are paused. Exit code: 0 succeeded, 1 failed or cancelled, 3 paused, 124 timeout.

    [bold]mgrd wait demo-4f0c21 --timeout 3600 && mgrd compare demo-4f0c21 @last[/bold]
    """
    from orchestrator.service.client_errors import StillRunning

    codes = []
    with desk.connected() as client:
        runs = [client.find(reference) for reference in references]
        deadline = None if timeout is None else time.monotonic() + timeout
        for run in runs:
            try:
                run.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
                codes.append(watching.code_of(run.experiment))
            except StillRunning as error:
                codes.append(desk.TIMED_OUT)
                desk.errors.print(f"[yellow]{error}[/yellow]", highlight=False, soft_wrap=True)
            if not as_json:
                desk.say(watching.report(run.experiment))
    if as_json:
        desk.print_json({"experiments": [run.experiment for run in runs]})
    raise typer.Exit(next(code for code in WORST_FIRST if code in codes))
