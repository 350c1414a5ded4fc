"""`mgrd compare`: two experiments side by side.

Neighbours: the service compares. Invariant: only what differs in the configuration, every metric that one of the two has.
"""

from __future__ import annotations

import re
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from orchestrator.service_cli import desk, words

# Metrics that are a part of, or a footnote to, another one: by task and data set, clocks, spreads, the optimiser's own.
DETAIL = re.compile(
    r"/(task|dataset|dataset_mean)/|/(std|invalid_share|seconds_p\d+)$|stderr$"
    r"|^last/(accuracy/|policy/(?!entropy$)|seconds/|probe/|responses/|tokens/|weights_version$|trajectories$)"
)


def compare(
    a: Annotated[
        str, typer.Argument(metavar="A", help="Experiment: id, its beginning or end, @last.", show_default=False)
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="Another one.", show_default=False)],
    *,
    everything: Annotated[bool, typer.Option("--all", help="Every metric, by task and data set, too.")] = False,
    as_json: desk.AsJson = False,
) -> None:
    """Compare two experiments: keys of the configuration that differ, last values of their main metrics (--json: of all).

    [bold]mgrd compare demo-4f0c21 @last[/bold]
    """
    with desk.connected() as client:
        first, second = client.find(a).experiment, client.find(b).experiment
        found = client.compare(first.id, second.id)
    if as_json:
        desk.print_json({"a": first.id, "b": second.id, "config": found.config, "metrics": found.metrics})
        return
    keys = Table("key", escape(first.id), escape(second.id), title="Configuration", title_justify="left")
    for row in found.config:
        keys.add_row(escape(row.key), _value(row.a), _value(row.b))
    metrics = Table("metric", escape(first.id), escape(second.id), "B - A", title="Metrics", title_justify="left")
    shown = [metric for metric in found.metrics if everything or not DETAIL.search(metric.name)]
    for metric in shown:
        difference = "" if metric.a is None or metric.b is None else f"{metric.b - metric.a:+.3f}"
        metrics.add_row(escape(metric.name), words.number(metric.a), words.number(metric.b), difference)
    if found.config:
        desk.console.print(keys)
    else:
        desk.say("the configurations are equal")
    if found.metrics:
        desk.console.print(metrics)
        if len(shown) < len(found.metrics):
            desk.say(f"{len(found.metrics) - len(shown)} more with --all")
    else:
        desk.say("neither has metrics yet")


def _value(text: str | None) -> str:
    return "[dim]none[/dim]" if text is None else escape(text)
