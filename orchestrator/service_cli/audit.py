"""`mgrd audit`: who did what on the service; for administrators.

Neighbours: the service writes the log. Invariant: newest first.
"""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from orchestrator.service_cli import desk


def audit(
    *,
    limit: Annotated[int, typer.Option(min=1, help="At most so many lines.")] = 50,
    as_json: desk.AsJson = False,
) -> None:
    """Who did what, when, from where, and what came of it.

    [bold]mgrd audit --limit 20[/bold]
    """
    with desk.connected() as client:
        lines = client.audit(limit)
    if as_json:
        desk.print_json({"audit": lines})
        return
    view = Table("when", "who", "did", "to", "outcome", "from")
    for line in lines:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(line.at))
        view.add_row(when, *(escape(text) for text in (line.by, line.deed, line.target, line.outcome, line.address)))
    desk.console.print(view)
