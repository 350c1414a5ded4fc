"""`mgrd show`: everything about one experiment on one screen.

Neighbours: the client asks, `words` puts it into text. Invariants: one look, nothing is followed; the last lines say what can be done.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from orchestrator.service.messages import Experiment, State
from orchestrator.service.states import ENDED
from orchestrator.service_cli import desk, words

if TYPE_CHECKING:
    from orchestrator.service.answers import PolicyUpdate

REWARD = "reward/mean"
CURVES = (
    REWARD,
    "accuracy",
    "think/tokens",
    "think/true_perceptions",
    "policy/kl",
    "policy/entropy",
)  # where an update has them


def show(reference: desk.Reference, as_json: desk.AsJson = False) -> None:
    """Everything about one experiment: stages, policy updates, reward, time left, resources, MLflow, last error, what can be done.

    [bold]mgrd show demo-4f0c21[/bold]   [bold]mgrd show @last --json[/bold]
    """
    with desk.connected() as client:
        run = client.find(reference)
        updates = run.updates()
        if as_json:
            desk.print_json(
                {"experiment": run.experiment, "updates": updates, "next": words.next_steps(run.experiment)}
            )
            return
    desk.console.print(facts(run.experiment))
    if run.experiment.progress.plan:
        desk.console.print(stage_table(run.experiment, updates))
    if updates:
        desk.console.print(curves(updates))
    if run.experiment.reason:
        colour = "red" if run.experiment.state is State.FAILED else "yellow"
        desk.say(f"[{colour}]{escape(run.experiment.reason.strip())}[/]")
    for step in words.next_steps(run.experiment):
        desk.say(f"  [dim]{escape(step)}[/dim]")


def facts(experiment: Experiment) -> Table:
    view = Table(show_header=False, title=escape(experiment.id), title_justify="left", title_style="bold")
    now, p = time.time(), experiment.progress
    ended = experiment.state in ENDED
    timing = f"submitted {words.duration(now - experiment.submitted_at)} ago"
    if experiment.started_at:
        timing += f", ran {words.duration((experiment.ended_at if ended else now) - experiment.started_at)}"
    rows = {
        "state": words.state(experiment),
        "progress": escape(words.progress(experiment)),
        "time": timing,
        "left": "" if ended else words.duration(p.eta_s),
        "reward": words.number(p.reward),
        "accuracy": words.number(p.accuracy),
        "tokens/s": words.number(p.tokens_per_s, 0),
        "invalid verdicts": f"{p.invalid_share:.1%}" if p.invalid_share else "",
        "scoring p95": f"{p.reward_p95_s:.2f} s" if p.reward_p95_s else "",
        "user": f"{escape(experiment.user)}, priority {experiment.priority}",
        "tags": escape(", ".join(f"{key}={value}" for key, value in experiment.tags.items())),
        "resources": words.resources(experiment),
        "attempts": f"{experiment.attempt}" + (f", retried {_retries(experiment)}" if experiment.retries else ""),
        "not before": f"in {words.duration(experiment.not_before - now)}" if experiment.not_before > now else "",
        "sweep": escape(experiment.parent),
        "clone of": escape(experiment.cloned_from),
        "code": experiment.code[:12],
        "overrides": escape(" ".join(experiment.overrides)),
        "files": escape(experiment.run_dir),
        "MLflow": escape(experiment.mlflow_url or experiment.mlflow_run),
    }
    for name, text in rows.items():
        if text:
            view.add_row(name, text)
    return view


def stage_table(experiment: Experiment, updates: Sequence[PolicyUpdate]) -> Table:
    view = Table("", "stage", "policy updates", "reward first → last")
    for place, name in enumerate(experiment.progress.plan):
        mine = [update.metrics[REWARD] for update in updates if update.stage == name and REWARD in update.metrics]
        count = sum(update.stage == name for update in updates)
        curve = f"{mine[0]:.3f} → {mine[-1]:.3f}" if mine else ""
        view.add_row(_mark(place, name, experiment), escape(name), str(count) if count else "", curve)
    return view


def curves(updates: Sequence[PolicyUpdate]) -> Table:
    view = Table("metric", "first", "last", "curve")
    for name in CURVES:
        values = [update.metrics[name] for update in updates if name in update.metrics]
        if values:
            view.add_row(name, words.number(values[0]), words.number(values[-1]), words.sparkline(values))
    return view


def _mark(place: int, name: str, experiment: Experiment) -> str:
    p = experiment.progress
    if experiment.state is State.SUCCEEDED or place < p.stages_done:
        return "[green]✓[/green]"
    if name == p.stage:
        return "[red]✗[/red]" if experiment.state is State.FAILED else "[blue]▶[/blue]"
    return "[dim]·[/dim]"


def _retries(experiment: Experiment) -> str:
    return ", ".join(f"{count} x {cause}" for cause, count in experiment.retries.items())
