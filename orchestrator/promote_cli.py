"""`mgrd model promote`: a registered version becomes champion if its report holds against guardrails.

Neighbours: `evaluation.promotion` decides and writes; `cli` adds the command. Invariants: exit codes are 0
promoted, 1 not promoted (with the reasons), 2 refused.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from orchestrator.errors import ConfigError, MgrdError

REFUSED, NOT_PROMOTED = 2, 1
console = Console()
errors = Console(stderr=True)


def promote_command(
    name: Annotated[str, typer.Argument(help="Registered model, such as mgrd-demo.")],
    version: Annotated[str, typer.Argument(help="Version, or the id of the MLflow run that registered it.")],
    report: Annotated[Path, typer.Option(help="report.json of an evaluation (or of a run).")],
    *,
    guardrail: Annotated[
        list[str] | None,
        typer.Option(
            help="METRIC >= NUMBER, <= NUMBER or >= champion - NUMBER, as often as you like.", show_default=False
        ),
    ] = None,
    mlflow_uri: Annotated[
        str, typer.Option(help="Tracking server; default: this machine's own.", show_default=False)
    ] = "",
) -> None:
    """Make a model version `champion` if every guardrail holds.

    [bold]mgrd model promote mgrd-demo 3 --report evaluations/…/report.json --guardrail "greedy/value >= 0.5"
    --guardrail "greedy/value >= champion - 0.02"[/bold]
    A metric is a path into the report; of errors write "truncated <= champion + 0.01". Without a champion, bounds against it hold.
    """
    from orchestrator.evaluation.guardrails import parse_guardrails
    from orchestrator.evaluation.promotion import promote

    try:
        rails = parse_guardrails(guardrail or [])
        if not rails:
            raise ConfigError('give at least one guardrail, such as --guardrail "greedy/value >= 0.5"')
        found = json.loads(report.read_text(encoding="utf-8"))
        with ExitStack() as services:
            outcome = promote(_server(mlflow_uri, services), name, version, found, rails)
    except (MgrdError, OSError, ValueError) as error:
        _refuse(str(error))
    if outcome.promoted:
        console.print(f"version {outcome.version} of {name} is champion", highlight=False)
        return
    stays = f"version {outcome.champion} stays champion" if outcome.champion else "there is no champion"
    errors.print(f"[yellow]not promoted:[/yellow] {stays}", highlight=False)
    for violation in outcome.violations:
        errors.print(f"  {escape(str(violation))}", highlight=False)
    raise typer.Exit(NOT_PROMOTED)


def _server(uri: str, services: ExitStack) -> str:
    from orchestrator import paths
    from orchestrator.config.schema import ExperimentConfig
    from orchestrator.embedded import EmbeddedServices

    if uri:
        return uri
    root = paths.mlflow_root(ExperimentConfig())
    if not root.is_dir():
        raise ConfigError(f"no MLflow store in {root} yet; run an experiment first, or give --mlflow-uri")
    embedded = services.enter_context(EmbeddedServices(paths.cache_dir() / "promote", root))
    return embedded.wait_for_mlflow(embedded.mlflow())


def _refuse(message: str) -> NoReturn:
    errors.print(f"[red]refused:[/red] {escape(message)}", highlight=False)
    raise typer.Exit(REFUSED)
