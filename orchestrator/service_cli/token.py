"""`mgrd token`: bearer tokens of the service, for administrators.

Neighbours: the service keeps only hashes. Invariant: a secret is printed once, by the command that made it.
"""

from __future__ import annotations

import re
import time
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from orchestrator.errors import MgrdError
from orchestrator.service_cli import desk, words

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}

token_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="rich", help="Create, list and revoke tokens of the service."
)


@token_app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="What it is for: laptop, ci, …", show_default=False)],
    *,
    user: Annotated[str, typer.Option(help="Whose; default: yours.", show_default=False)] = "",
    scope: Annotated[str, typer.Option(help="read | submit | admin; each contains those before it.")] = "submit",
    expires: Annotated[str, typer.Option(help="Time it is good for: 12h, 30d, 8w; 0 for ever.")] = "90d",
    as_json: desk.AsJson = False,
) -> None:
    """Make a token and print it: it is shown only now.

    [bold]mgrd token create laptop --user anna --scope submit --expires 30d[/bold]   Then: export MGRD_URL=… MGRD_TOKEN=…
    """
    with desk.connected() as client:
        made = client.create_token(name, user=user, scope=scope, expires_s=seconds(expires))
        url = client.address.url
    if as_json:
        desk.print_json(made)
        return
    desk.say(
        f"token {made.token.id} of {escape(made.token.user)}, scope {made.token.scope}, {_until(made.token.expires_at)}"
    )
    desk.say(f"export MGRD_URL={url} MGRD_TOKEN={made.secret}")


@token_app.command("list")
def list_tokens(as_json: desk.AsJson = False) -> None:
    """Tokens without their secrets. [bold]mgrd token list[/bold]"""
    with desk.connected() as client:
        found = client.tokens()
    if as_json:
        desk.print_json({"tokens": found})
        return
    now = time.time()
    view = Table("id", "name", "user", "scope", "made", "used", "state")
    for token in found:
        used = f"{words.duration(now - token.used_at)} ago" if token.used_at else "never"
        state = "[red]revoked[/red]" if token.revoked_at else _until(token.expires_at)
        made = f"{words.duration(now - token.created_at)} ago"
        view.add_row(token.id, escape(token.name), escape(token.user), token.scope, made, used, state)
    desk.console.print(view)


@token_app.command("revoke")
def revoke(
    identity: Annotated[
        str, typer.Argument(metavar="TOKEN_ID", help="As `mgrd token list` shows it.", show_default=False)
    ],
    as_json: desk.AsJson = False,
) -> None:
    """Take a token back; it opens nothing from the next request on. [bold]mgrd token revoke 4f0c21aa90de[/bold]"""
    with desk.connected() as client:
        client.revoke_token(identity)
    if as_json:
        desk.print_json({"id": identity, "revoked": True})
    else:
        desk.say(f"token {escape(identity)} is revoked")


def seconds(text: str) -> float:
    """`30d` → seconds; "0" → 0.0, for ever. Raises MgrdError."""
    found = re.fullmatch(r"(\d+)([smhdw])", text)
    if found:
        return float(found[1]) * UNITS_S[found[2]]
    if text == "0":
        return 0.0
    raise MgrdError(f"{text!r} is no time; write 12h, 30d, 8w, or 0 for ever")


def _until(expires_at: float) -> str:
    if not expires_at:
        return "good for ever"
    left = expires_at - time.time()
    return f"good for {words.duration(left)}" if left > 0 else "[red]expired[/red]"
