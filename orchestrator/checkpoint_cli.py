"""`mgrd checkpoints`, `mgrd export`, `mgrd import`: what a run has kept, as a folder that others read, and back.

Neighbours: `cli` adds the commands; `checkpoint_source` finds the checkpoint that is meant, `actor` converts it. Invariants: exit
status 0 done, 1 a damaged checkpoint was found by `checkpoints`, 2 refused with the reason, and then nothing was written.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator.checkpoint_mirror import is_url, mirror_of
from orchestrator.checkpoint_source import chosen, run_shelf
from orchestrator.checkpoints import Listed
from orchestrator.errors import ConfigError, MgrdError
from orchestrator.progress import ProgressView

REFUSED, DAMAGED = 2, 1
console = Console()
errors = Console(stderr=True)


class Adapter(StrEnum):
    """What becomes of low-rank updates."""

    MERGED = "merged"
    APART = "apart"


class Precision(StrEnum):
    """Of exported weights."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]


def export_command(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CKPT",
            help="RUN/checkpoints/NAME; a run directory (its best checkpoint, else its newest); a folder that mgrd import wrote; or "
            "one of these below run.checkpoint_url.",
            show_default=False,
        ),
    ],
    to: Annotated[Path, typer.Option("--to", help="Folder to write.", show_default=False)],
    *,
    dtype: Annotated[
        Precision | None, typer.Option(help="Of all weights; default: as trained, the encoder as in the base.")
    ] = None,
    adapter: Annotated[
        Adapter,
        typer.Option(help="Low-rank updates: merged into the weights, or apart, as a folder that PEFT loads."),
    ] = Adapter.MERGED,
    base: Annotated[
        str,
        typer.Option(
            metavar="FOLDER",
            help="Model folder that the run started from (config, tokenizer, encoder), where it lies elsewhere now.",
            show_default=False,
        ),
    ] = "",
    force: Force = False,
) -> None:
    """Write a checkpoint as a Hugging Face folder: engines serve it, transformers-style loaders read it, a run starts from it.

    [bold]mgrd export runs/demo-seed7 --to model[/bold] takes the run's best checkpoint (else its newest); name another one with
    [bold]mgrd export runs/demo-seed7/checkpoints/update_000040 --to model --dtype bfloat16[/bold]. No GPU, optimizer or rank is needed:
    tensors are streamed one at a time, whatever layout wrote them. Every byte is verified first; damage is refused by its file's
    name. A run that trained low-rank updates can give them apart: [bold]--adapter apart[/bold]. See docs/CHECKPOINTS.md.
    """
    with _refusing():
        from actor import Actor, export_adapter, export_merged

        _target(to, force)
        if adapter is Adapter.APART and dtype is not None:
            raise ConfigError("--dtype is for merged weights; an adapter keeps the type it was trained in")
        with chosen(checkpoint, to.absolute().with_name(f".{to.name}.fetched")) as source:
            console.print(f"verify {source.name}", highlight=False, soft_wrap=True, markup=False)
            actor = Actor.of(source.folder, base, source.part)
            if adapter is Adapter.APART:
                export_adapter(actor, to, partial(_bar, "export"))
            else:
                export_merged(actor, to, partial(_bar, "export"), dtype.value if dtype else "")
    use = f"serve it with: vllm serve {to}" if adapter is Adapter.MERGED else f"an adapter of {actor.base}"
    console.print(f"{to}: {_size(to)}; {use}", highlight=False, soft_wrap=True, markup=False)


def import_command(
    source: Annotated[Path, typer.Argument(metavar="HF_FOLDER", help="Step-Audio 2 model folder.", show_default=False)],
    to: Annotated[Path, typer.Option("--to", help="Checkpoint folder to write.", show_default=False)],
    *,
    dtype: Annotated[
        Precision | None, typer.Option(help="Of the checkpoint; default: as config.json of the folder says.")
    ] = None,
    force: Force = False,
) -> None:
    """Write the weights of a Hugging Face folder as a sealed checkpoint, which trainers read in any layout, each rank its own part.

    [bold]mgrd import Step-Audio-2-mini --to start[/bold]. Tensors are streamed one at a time; a folder of another model is refused by
    the tensor that is missing or misshapen. [bold]mgrd export[/bold] gives equal bits back. A run needs no import to start from a folder:
    [bold]model.path=FOLDER[/bold].
    """
    with _refusing():
        from actor import import_folder

        _target(to, force)
        import_folder(str(source), to, partial(_bar, "import"), dtype.value if dtype else "")
    console.print(f"{to}: {_size(to)}, sealed", highlight=False, soft_wrap=True, markup=False)


def checkpoints_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a run.", show_default=False)],
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Read every byte and compare it with the seal, not only names and sizes.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON list.")] = False,
) -> None:
    """List the checkpoints of a run: what is whole, what is damaged and how, which is best, what is copied elsewhere.

    [bold]mgrd checkpoints runs/demo-seed7 --check[/bold]. Exit status 1: one is damaged. The run may be running.
    """
    with _refusing():
        if is_url(str(run)):
            raise ConfigError(f"{run}: give the directory of the run; its copies elsewhere are listed with it")
        shelf = run_shelf(run)
        if shelf is None:
            raise ConfigError(f"{run} is no directory of a run: it has no folder checkpoints")
        listed = shelf.listed(digests=check)
        copies, problem = _copies(shelf.root.parent)
    if as_json:
        rows = [
            asdict(one) | {"best": one.kept.name == shelf.best, "copied": one.kept.name in copies} for one in listed
        ]
        print(json.dumps(rows))
    else:
        console.print(_table(listed, shelf.best, copies, check))
        for name in shelf.unfinished:
            console.print(f"{name}: unfinished (being written, or its process was killed)", highlight=False)
    if problem:
        errors.print(f"[yellow]no word from the copies:[/yellow] {escape(problem)}", highlight=False, soft_wrap=True)
    damaged = [one for one in listed if one.problem]
    for one in damaged:
        errors.print(f"[red]damaged:[/red] {escape(one.problem)}", highlight=False, soft_wrap=True)
    if damaged:
        raise typer.Exit(DAMAGED)


def _table(listed: list[Listed], best: str, copies: set[str], check: bool) -> Table:
    table = Table("checkpoint", "stage", "update", "version", "written", "MB", "layout", "state", "copied")
    for one in listed:
        kept = one.kept
        written = "" if one.kept.stage == "" else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(kept.written))
        whole = "whole, every byte" if check else "whole"
        table.add_row(
            kept.name + (" (best)" if kept.name == best else ""),
            kept.stage,
            "" if kept.update < 0 else str(kept.update),
            str(kept.version) if kept.stage else "",
            written,
            f"{kept.size / 1e6:.1f}",
            one.layout,
            "[red]damaged[/red]" if one.problem else whole,
            "yes" if kept.name in copies else "",
        )
    return table


def _copies(run: Path) -> tuple[set[str], str]:
    """Names of whole checkpoints at the run's `checkpoint_url`, or why they cannot be listed."""
    from orchestrator.config.compose import from_yaml

    config = run / "config.yaml"
    if not config.is_file():
        return set(), ""
    try:
        mirror = mirror_of(from_yaml(config).run.checkpoint_url, run.absolute())
        return {one.name for one in mirror.kept()} if mirror is not None else set(), ""
    except Exception as error:  # noqa: BLE001 (a store speaks through whatever library its URL needs)
        return set(), f"{type(error).__name__}: {error}"


def _target(folder: Path, force: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; give a folder")
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise ConfigError(f"{folder} is not empty; give another folder, or replace what is there with --force")


@contextmanager
def _bar(name: str, total: int) -> Iterator[Callable[[], None]]:
    with ProgressView(console).bar(f"{name} tensors", total) as advance:
        yield advance


@contextmanager
def _refusing() -> Iterator[None]:
    from actor import CheckpointError, WeightsError
    from rollout import CheckpointError as FolderError

    try:
        yield
    except (MgrdError, CheckpointError, FolderError, WeightsError, OSError, ValueError) as error:
        _refuse(str(error))


def _refuse(message: str) -> NoReturn:
    errors.print(f"[red]refused:[/red] {escape(message)}", highlight=False, soft_wrap=True)
    raise typer.Exit(REFUSED)


def _size(folder: Path) -> str:
    return f"{sum(path.stat().st_size for path in folder.rglob('*') if path.is_file()) / 1e6:.1f} MB"
