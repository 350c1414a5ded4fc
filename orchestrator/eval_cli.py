"""`mgrd eval`: any checkpoint on any data set, with intervals.

Neighbours: `evaluation.run` does it; `cli` adds the command. Invariants: exit codes as in `cli`: 2 refused with nothing started, 1 failed,
3 paused, 130 interrupted; what is finished is kept and `--resume` goes on.
"""

from __future__ import annotations

import logging
import signal
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator.errors import ConfigError, PreflightError, RunPaused

if TYPE_CHECKING:
    from orchestrator.datasets.benchmarks import JudgeAccess
    from orchestrator.evaluation.report import EvaluationReport
    from orchestrator.evaluation.sources import EvaluationData

REFUSED, FAILED, PAUSED, INTERRUPTED = 2, 1, 3, 130
DEFAULT_KS = (1, 4)
console = Console()
errors = Console(stderr=True)


def evaluate_command(
    model: Annotated[
        str,
        typer.Argument(
            help="A run's directory, a checkpoint folder (a run's is RUN/model), a hub id, or a preset: tiny."
        ),
    ],
    *,
    data: Annotated[
        Path | None, typer.Option(help="Questions as JSON lines (docs/DATA.md).", show_default=False)
    ] = None,
    benchmark: Annotated[
        str, typer.Option(help="mmau | mmar | mmsu | big_bench_audio | spoken_mqa | wild_speech", show_default=False)
    ] = "",
    path: Annotated[
        Path | None, typer.Option(help="Folder or file of the benchmark, as it was published.", show_default=False)
    ] = None,
    judge_url: Annotated[str, typer.Option(help="OpenAI-compatible endpoint of a judge.", show_default=False)] = "",
    judge_model: Annotated[str, typer.Option(help="The judge's name there.", show_default=False)] = "",
    judge_secret: Annotated[str, typer.Option(help="Name of the secret it asks for.", show_default=False)] = "",
    samples: Annotated[int, typer.Option(min=1, help="Responses a question at temperature 1, beside one greedy.")] = 4,
    pass_k: Annotated[
        str,
        typer.Option(
            "--pass-k",
            help="pass@k for these k, none above --samples; default: 1,4 as far as they go.",
            show_default=False,
        ),
    ] = "",
    questions: Annotated[int, typer.Option(min=0, help="At most so many, balanced over tasks; 0: all.")] = 0,
    contribution: Annotated[
        bool, typer.Option("--contribution", help="Also ask without the clips: what does the audio contribute?")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of report, table, plots and samples; default: evaluations/DATA-MODEL-TIME."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on in --out where a killed evaluation stopped.")] = False,
    chunk: Annotated[int, typer.Option(min=1, help="Questions that are sampled and kept together.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same samples (on CPU).")] = 11,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Configuration, key=value: rollout.max_new_tokens=64, actor.device=cuda.", show_default=False
        ),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what every part does.")] = False,
) -> None:
    """Evaluate a checkpoint: accuracy by task with intervals, pass@k, and whether longer thinking helps.

    [bold]mgrd eval runs/demo-seed11 --data held_out.jsonl[/bold] samples every question four times and once greedily, judges the
    replies, and writes report.json, table.md and plots; MLflow gets the same. Intervals are 95 %, by bootstrap over questions.
    A model of a run is sampled under that run's settings unless [bold]--set[/bold] says otherwise.

    [bold]mgrd eval MODEL --benchmark mmau --path ~/mmau[/bold] reads a benchmark's published files and scores by its own rules
    (docs/EVALUATION.md); nothing is downloaded. wild_speech needs a judge, big_bench_audio is scored by one where it is given.
    """
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    from orchestrator.datasets import DataError
    from orchestrator.evaluation.run import Request, evaluate
    from orchestrator.evaluation.session import PromptTooLong
    from orchestrator.evaluation.sources import find_checkpoint, limited
    from orchestrator.failures import forget, told
    from orchestrator.hearing.perturb import HearingError
    from orchestrator.progress import ProgressView
    from rollout import AudioError, CheckpointError, ModelError, PromptError

    signal.signal(signal.SIGTERM, _interrupt)
    if resume and out is None:
        _refuse("--resume needs the folder to go on in: --out DIR")
    folder = out or Path("evaluations")
    try:
        ks = ks_of(pass_k, samples)
        judge = _judge(judge_url, judge_model, judge_secret)
        chosen = limited(_data(data, benchmark, path, judge), questions)
        checkpoint = find_checkpoint(model)
        folder = out or Path("evaluations") / f"{chosen.name}-{checkpoint.digest[:8]}-{time.strftime('%Y%m%d-%H%M%S')}"
        request = Request(
            checkpoint, chosen, folder, samples, ks, chunk, seed, resume, contribution, tuple(settings or ())
        )
        finished = evaluate(request, ProgressView(console))
    except (
        *(PreflightError, ConfigError, DataError, AudioError, HearingError),
        *(ModelError, CheckpointError, PromptError, PromptTooLong),
    ) as error:
        _refuse(str(error))
    except KeyboardInterrupt:
        _end("[yellow]stopped.[/yellow]", "", folder, INTERRUPTED)
    except RunPaused as pause:
        _end("[yellow]paused:[/yellow]", str(pause), folder, PAUSED)
    except Exception as error:
        logging.getLogger(__name__).debug("the evaluation failed", exc_info=True)
        _end("[red]failed:[/red]", told(error, folder), folder, FAILED)
    forget(folder)
    _show(finished.report)
    console.print(f"written to {finished.folder}; MLflow run {finished.record['mlflow']['run_id']}", highlight=False)


def _data(file: Path | None, benchmark: str, path: Path | None, judge: JudgeAccess | None) -> EvaluationData:
    from orchestrator.evaluation.sources import benchmark_data, jsonl_data

    if (file is None) == (not benchmark):
        raise PreflightError("say what to evaluate on, one of both: --data FILE, or --benchmark NAME --path DIR")
    if file is not None:
        return jsonl_data(file)
    if path is None:
        raise PreflightError(f"--benchmark {benchmark} needs --path: the folder it was downloaded to")
    return benchmark_data(benchmark, path, judge)


def _judge(url: str, model: str, secret: str) -> JudgeAccess | None:
    from orchestrator.datasets.benchmarks import JudgeAccess

    if bool(url) != bool(model):
        raise PreflightError("a judge needs both: --judge-url and --judge-model")
    return JudgeAccess(url, model, secret) if url else None


def ks_of(text: str, samples: int) -> tuple[int, ...]:
    """Of pass@k; "": those of the default that so many samples allow. Raises PreflightError for a k that they don't."""
    if not text.strip():
        return tuple(k for k in DEFAULT_KS if k <= samples)
    try:
        found = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise PreflightError(f"--pass-k {text!r}: give whole numbers with commas, such as 1,4") from error
    if any(k < 1 for k in found):
        raise PreflightError(f"--pass-k {text!r}: every k is 1 or more")
    if any(k > samples for k in found):
        raise PreflightError(f"--pass-k {text!r}: pass@k needs k samples a question, there are --samples {samples}")
    return found


def _show(report: EvaluationReport) -> None:
    from orchestrator.evaluation.report import summary_lines, table_rows

    rows = table_rows(report)
    table = Table(title="Accuracy, % [95 % interval]", title_justify="left")
    for number, name in enumerate(rows[0]):
        table.add_column(name, justify="left" if number == 0 else "right")
    for row in rows[1:-1]:
        table.add_row(*row)
    table.add_section()
    table.add_row(*rows[-1])
    console.print(table)
    for line in summary_lines(report):
        console.print(line, highlight=False)


def _refuse(message: str) -> NoReturn:
    errors.print(f"[red]refused:[/red] {escape(message)}", highlight=False)
    raise typer.Exit(REFUSED)


def _end(what: str, message: str, folder: Path, code: int) -> NoReturn:
    started = (folder / "plan.json").is_file()
    hint = f"go on with the same command and --resume --out {folder}" if started else "nothing was kept"
    errors.print(f"{what} {escape(message)}\n{escape(hint)}", highlight=False)
    raise typer.Exit(code)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
