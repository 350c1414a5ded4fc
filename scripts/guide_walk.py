"""Walks through docs/GUIDE.md against a fresh service and writes what the terminal said into it.

Every console block below a line `<!-- walk -->` is run command by command (lines that begin with `$ `), and what each printed replaces what
stood there. `<!-- walk until="update" -->` presses Ctrl-C once a line holds that text; `code=1` expects that exit code. Blocks titled
`<!-- file my_rewards.py -->` become files of the walk. Neighbours: the `mgrd` command of this environment; nothing else of the package.
Invariants: the guide changes only if every command did what it should; the service is stopped in the end, whatever happens; addresses,
folders and secrets of the machine never get into the text.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

GUIDE = Path(__file__).parents[1] / "docs" / "GUIDE.md"
FILE = re.compile(r"<!-- file (?P<name>[\w.-]+) -->\n```\w*\n(?P<text>.*?)```\n", re.DOTALL)
WALK = re.compile(r"(?P<marker><!-- walk(?P<options>[^>]*?) -->)\n```console\n(?P<body>.*?)```\n", re.DOTALL)
LIMIT_S = 3600.0  # of one command: a small experiment on two cores that others use as well
WIDTH = 118


class WalkError(Exception):
    """A command did not do what the guide says."""


@dataclass(frozen=True, slots=True)
class Block:
    """commands: without `$ `; until: text at which Ctrl-C is pressed, "" never; code: exit code of the last command."""

    commands: tuple[str, ...]
    until: str = ""
    code: int = 0


def block_of(options: str, body: str) -> Block:
    """Raises WalkError for a block without commands, or an option that is none."""
    given = dict(option.partition("=")[::2] for option in shlex.split(options))
    if unknown := given.keys() - {"until", "code"}:
        raise WalkError(f"unknown option {', '.join(unknown)}; there are until and code")
    commands = tuple(line[2:] for line in body.splitlines() if line.startswith("$ "))
    if not commands:
        raise WalkError(f"a block without commands: {body!r}")
    return Block(commands, given.get("until", ""), int(given.get("code", "0")))


class Walk:
    """A folder with the guide's files, a state of its own, the commands' environment."""

    def __init__(self, folder: Path, guide: str) -> None:
        self.work, self.state = folder / "walk", folder / "state"
        for made in (self.work, self.state):
            made.mkdir()
        for found in FILE.finditer(guide):
            (self.work / found["name"]).write_text(found["text"])
        self.environment = {
            k: v for k, v in os.environ.items() if k not in ("MGRD_URL", "MGRD_TOKEN", "MGRD_REDIS_URL")
        }
        self.environment |= {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "MGRD_STATE": str(self.state),
            "COLUMNS": str(WIDTH),
            "NO_COLOR": "1",
            "TERM": "dumb",
            "LOGNAME": "you",
        }

    def block(self, options: str, body: str) -> str:
        """The body anew: each command and what it printed."""
        block, parts = block_of(options, body), []
        for command in block.commands:
            last = command is block.commands[-1]
            typer.echo(f"$ {command}", err=True)
            code, output = self.run(command, block.until if last else "")
            if code != (block.code if last else 0):
                raise WalkError(f"`{command}` exited {code}:\n{output}")
            parts.append(f"$ {command}\n{self.clean(output)}")
        return "".join(parts)

    def run(self, command: str, until: str = "") -> tuple[int, str]:
        """(exit code, what it printed). With `until`: Ctrl-C after the first line that holds it. Raises WalkError past the limit."""
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}" if until else command],
            cwd=self.work,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        late = threading.Timer(LIMIT_S, os.killpg, (process.pid, signal.SIGKILL))
        late.start()
        lines = []
        with process:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                if until and until in line:
                    process.send_signal(signal.SIGINT)
                    until = ""
        late.cancel()
        if process.returncode == -signal.SIGKILL:
            raise WalkError(f"`{command}` took longer than {LIMIT_S:.0f} s:\n{''.join(lines[-20:])}")
        return process.returncode, "".join(lines)

    def clean(self, text: str) -> str:
        """Without what belongs to this machine alone."""
        text = text.replace(str(self.work), "~/walk").replace(str(self.state), "~/.cache/mgrd")
        text = text.replace(str(Path.home()), "~").replace(str(Path(sys.prefix)), ".venv")
        text = re.sub(r"mgrd_[0-9a-f]{12}_[\w-]{43}", "mgrd_…", text)
        text = re.sub(r"(redis|rediss)://[^@\s/]*@", r"\1://…@", text)
        lines = [line.rstrip() for line in text.splitlines()]
        return "".join(line + "\n" for line in lines if line)


def walk(guide: str, folder: Path) -> str:
    """The guide with fresh transcripts. Raises WalkError."""
    tour = Walk(folder, guide)
    try:
        return WALK.sub(
            lambda found: f"{found['marker']}\n```console\n{tour.block(found['options'], found['body'])}```\n", guide
        )
    finally:
        tour.run("mgrd down")


def main(
    guide: Annotated[Path, typer.Argument(help="The page to walk through.")] = GUIDE,
    show: Annotated[bool, typer.Option("--list", help="Print the commands, run nothing.")] = False,
) -> None:
    """Make the transcripts of the guide anew: .venv/bin/python scripts/guide_walk.py"""
    text = guide.read_text(encoding="utf-8")
    try:
        if show:
            for found in WALK.finditer(text):
                for command in block_of(found["options"], found["body"]).commands:
                    typer.echo(command)
            return
        with tempfile.TemporaryDirectory(prefix="mgrd-walk-", ignore_cleanup_errors=True) as folder:
            fresh = walk(text, Path(folder))
    except WalkError as error:
        typer.echo(f"the walk ended: {error}", err=True)
        raise typer.Exit(1) from error
    guide.write_text(fresh, encoding="utf-8")
    typer.echo(f"{guide} is written")


if __name__ == "__main__":
    typer.run(main)
