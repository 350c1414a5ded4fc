"""`mgrd ps`: the experiments as a table, live with -w.

Neighbours: the client lists. Invariants: without --all only what has not ended, and what ended within the last day; newest first.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Annotated

import typer
from rich.live import Live
from rich.markup import escape
from rich.table import Column, Table

from orchestrator.errors import MgrdError
from orchestrator.service.messages import Experiment
from orchestrator.service.states import ENDED
from orchestrator.service_cli import desk, words

RECENT_S = 24 * 3600.0
ROUND_S = 2.0


def ps(
    *,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Keep the table up to date until Ctrl-C.")] = False,
    state: Annotated[
        list[str] | None, typer.Option(help="Only these: queued, running, failed, …; repeat it.", show_default=False)
    ] = None,
    user: Annotated[str, typer.Option(help="Only this user's; @me: yours.", show_default=False)] = "",
    tag: Annotated[str, typer.Option(help="Only with this tag, key=value.", show_default=False)] = "",
    sweep: Annotated[str, typer.Option(help="Only of this sweep.", show_default=False)] = "",
    everything: Annotated[bool, typer.Option("--all", "-a", help="Also what ended more than a day ago.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    as_json: desk.AsJson = False,
) -> None:
    """List experiments, newest first: state, progress, reward, time left.

    [bold]mgrd ps -w[/bold]   [bold]mgrd ps --state running --user @me --tag team=audio[/bold]   [bold]mgrd ps --all --json[/bold]
    """
    with desk.connected() as client:
        who = client.me().name if user == "@me" else user
        pair = _pair(tag)

        def rows() -> list[Experiment]:
            found = client.list(states=state or (), user=who, tag=pair, parent=sweep, limit=limit)
            listed = [run.experiment for run in found]
            return listed if everything or state or sweep else [e for e in listed if _recent(e)]

        if watch:
            _watch(rows, as_json)
        elif as_json:
            desk.print_json({"experiments": rows()})
        else:
            found = rows()
            if found:
                desk.console.print(table(found))
            else:
                desk.say("no experiments; queue one with [bold]mgrd submit experiment=demo[/bold]")


def table(experiments: list[Experiment]) -> Table:
    view = Table(Column("id", no_wrap=True), "state", "priority", "user", "progress", "reward", "left", "age", "why")
    now = time.time()
    for experiment in experiments:
        p = experiment.progress
        view.add_row(
            escape(experiment.id),
            words.state(experiment),
            str(experiment.priority),
            escape(experiment.user),
            escape(words.progress(experiment)),
            words.number(p.reward),
            "" if experiment.state in ENDED else words.duration(p.eta_s),
            words.duration(now - experiment.submitted_at),
            escape(words.first_line(experiment.reason, 48)),
        )
    return view


def _watch(rows: Callable[[], list[Experiment]], as_json: bool) -> None:
    """Asks again every two seconds; in JSON a line a change. While the service is away the last table stands, and says so."""
    from orchestrator.service.client_errors import NotReady, ServiceUnreachable

    before: list[Experiment] | None = None
    with (
        desk.until_interrupted(),
        Live(console=desk.console, auto_refresh=False) if not as_json else nullcontext() as live,
    ):
        while True:
            away = ""
            try:
                found = rows()
            except (NotReady, ServiceUnreachable) as error:
                if before is None:
                    raise
                found, away = before, f"{time.strftime('%H:%M:%S')} {error.message}"
            if live is not None:
                view = table(found)
                view.caption = escape(away)
                live.update(view, refresh=True)
            elif found != before:
                desk.print_line({"experiments": found})
            before = found
            time.sleep(ROUND_S)


def _recent(experiment: Experiment) -> bool:
    return experiment.state not in ENDED or experiment.ended_at > time.time() - RECENT_S


def _pair(tag: str) -> tuple[str, str] | None:
    if not tag:
        return None
    key, sign, value = tag.partition("=")
    if not sign:
        raise MgrdError(f"{tag!r} is no tag; write --tag key=value")
    return key, value
