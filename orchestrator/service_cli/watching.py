"""An experiment followed in a terminal: a line for everything that happens, the exit code at its end.

Neighbours: `submit --follow`, `events`, `wait` use it. Invariant: one event is one line, in JSON or in words.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.markup import escape

from orchestrator.service.event_words import in_words
from orchestrator.service.messages import Event, Experiment, State
from orchestrator.service_cli import desk, words

if TYPE_CHECKING:
    from orchestrator.service.client import Run

CODES = {State.SUCCEEDED: 0, State.FAILED: desk.FAILED, State.CANCELLED: desk.FAILED, State.PAUSED: desk.PAUSED}


def code_of(experiment: Experiment) -> int:
    """0 succeeded, 1 failed or cancelled, 3 paused; what has not ended counts as 0."""
    return CODES.get(experiment.state, 0)


def follow(run: Run, *, as_json: bool, after: str = "0", name: bool = False) -> None:
    """Print every event until the end, or Ctrl-C."""
    with desk.until_interrupted():
        for event in run.events(after=after):
            show_event(event, as_json=as_json, name=name)


def show_event(event: Event, *, as_json: bool, name: bool = False) -> None:
    if as_json:
        desk.print_line(event)
        return
    clock = time.strftime("%H:%M:%S", time.localtime(event.at))
    who = f"{event.experiment}  " if name else ""
    desk.say(
        f"[dim]{clock}[/dim]  {escape(who)}[bold]{escape(event.kind)}[/bold]  {escape(in_words(event.kind, event.data))}"
    )


def report(experiment: Experiment) -> str:
    """How it ended, and what can be done."""
    lines = [f"[bold]{escape(experiment.id)}[/bold] is {words.state(experiment)}"]
    if experiment.reason:
        lines[0] += f": {escape(words.first_line(experiment.reason, 200))}"
    lines += [f"  [dim]{escape(step)}[/dim]" for step in words.next_steps(experiment)]
    return "\n".join(lines)
