"""The commands of the service, hung into `mgrd`.

Neighbours: `orchestrator.cli` calls `add_commands`. Invariant: a command is one function of one module here.
"""

from __future__ import annotations

import typer

from orchestrator.service_cli import desk
from orchestrator.service_cli.audit import audit
from orchestrator.service_cli.compare import compare
from orchestrator.service_cli.control import cancel, clone, pause
from orchestrator.service_cli.events import events
from orchestrator.service_cli.logs import logs
from orchestrator.service_cli.ps import ps
from orchestrator.service_cli.show import show
from orchestrator.service_cli.submit import submit
from orchestrator.service_cli.sweep import sweep
from orchestrator.service_cli.token import token_app
from orchestrator.service_cli.wait import wait

COMMANDS = (submit, ps, show, logs, events, wait, cancel, pause, clone, compare, sweep, audit)


def add_commands(app: typer.Typer) -> None:
    """All but `resume`, which goes on with local runs as well."""
    for command in COMMANDS:
        app.command(rich_help_panel=desk.PANEL)(command)
    app.add_typer(token_app, name="token", rich_help_panel=desk.PANEL)
