"""What all commands of the service share: the connection, errors as exit codes, JSON, options.

Neighbours: every command opens its client here. Invariants: what is refused exits 2 with message and hint, an unreachable service exits 4,
Ctrl-C in a command that watches leaves without a trace.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from orchestrator.errors import MgrdError

if TYPE_CHECKING:
    from orchestrator.service.client import Client

FAILED, REFUSED, PAUSED, UNREACHABLE, TIMED_OUT = 1, 2, 3, 4, 124
PANEL = "The service: queue experiments, watch and change them"

console = Console()
errors = Console(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of tables; JSON lines for what goes on.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE", help="experiment=demo run.seed=7 actor.actor_optim.lr=5e-5", show_default=False
    ),
]
Reference = Annotated[
    str,
    typer.Argument(
        metavar="ID", help="Experiment: its id, the beginning or end of it, or @last, your newest.", show_default=False
    ),
]
Name = Annotated[str, typer.Option("--name", help="Name for people; default: run.name.", show_default=False)]
Priority = Annotated[str, typer.Option("--priority", help="low | normal | high")]
Tags = Annotated[
    list[str] | None,
    typer.Option("--tag", help="key=value, as many as you like; `mgrd ps --tag` finds it.", show_default=False),
]


@contextmanager
def connected() -> Iterator[Client]:
    """A client; what goes wrong becomes a message and an exit code."""
    import stamina.instrumentation

    from orchestrator.service.client import Client

    stamina.instrumentation.set_on_retry_hooks([])  # a command says what came of it, not how often it tried
    with refusing(), Client() as client:
        yield client


@contextmanager
def refusing() -> Iterator[None]:
    """Turns errors into a message on standard error and an exit code."""
    from orchestrator.service.client_errors import ServiceUnreachable
    from orchestrator.service.discovery import NoServiceKnown

    try:
        yield
    except (ServiceUnreachable, NoServiceKnown) as error:
        _leave("no service", error, UNREACHABLE)
    except MgrdError as error:
        _leave("refused", error, REFUSED)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


@contextmanager
def until_interrupted() -> Iterator[None]:
    """Around a command that watches: Ctrl-C is how one leaves, and so is a reader of the output that goes away."""
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def print_json(value: Any) -> None:
    """One document, as a table's place-holder; enums and dataclasses as the service sends them."""
    import msgspec

    text = msgspec.json.encode(value)
    sys.stdout.write((msgspec.json.format(text, indent=2) if console.is_terminal else text).decode() + "\n")


def print_line(value: Any) -> None:
    """One JSON line, seen at once by whoever reads the pipe."""
    import msgspec

    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)


def tags_of(texts: list[str] | None) -> dict[str, str]:
    """Raises MgrdError for one that is not key=value."""
    found = {}
    for text in texts or ():
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise MgrdError(f"{text!r} is no tag; write --tag key=value")
        found[key] = value
    return found


def _leave(what: str, error: MgrdError, code: int) -> NoReturn:
    message, hint = str(error), getattr(error, "hint", "")
    if hint:
        message = getattr(error, "message", message)
    if field := getattr(error, "field", ""):
        message = f"{field}: {message}" if field not in message else message
    errors.print(f"[red]{what}:[/red] {escape(message)}", highlight=False, soft_wrap=True)
    if hint:
        errors.print(f"[dim]hint:[/dim] {escape(hint)}", highlight=False, soft_wrap=True)
    raise typer.Exit(code) from error
