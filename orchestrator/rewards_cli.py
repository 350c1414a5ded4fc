"""`mgrd rewards`: try a reward, publish it, look at what is published, serve scores over HTTP.

Neighbours: `rewards.lab` does the work, `rewards_views` the tables, `rewards_store` opens the registry. Invariants: every command
answers in JSON, too; a golden case that misses exits 1, what is refused exits 2 with the reason and has changed nothing.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.syntax import Syntax

from orchestrator.errors import MgrdError
from orchestrator.rewards_serve import serve
from orchestrator.rewards_store import VARIABLE, bundle_dir, open_store
from rewards import RewardError

if TYPE_CHECKING:
    from rewards import Limits
    from rewards.lab import Advance, Subject

REFUSED, MISSED = 2, 1

rewards_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Try, publish and serve rewards.\n\n"
    "A reward is named by an installed name ([bold]answer[/bold]), a file and function ([bold]my_rewards.py:pitch_named[/bold]), "
    "a published version ([bold]sha256:4f0c…[/bold], 12 digits or more) or a tag ([bold]pitch_named@stable[/bold]).\n\n"
    "The usual way: [bold]test[/bold] it on golden cases, [bold]diff[/bold] it against what a run used, [bold]register[/bold] "
    "it, and put the hash into the run: reward.terms.pitch_named.version=sha256:…",
)
console = Console()
errors = Console(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
RedisUrl = Annotated[
    str,
    typer.Option("--redis-url", envvar=VARIABLE, help="Registry; default: one of this machine.", show_default=False),
]
Parameters = Annotated[
    list[str] | None,
    typer.Option("--param", "-p", help="Parameter of the function, name=value (JSON, else text).", show_default=False),
]
TimeoutS = Annotated[float, typer.Option("--timeout", help="Wall limit of one sample in one function, seconds.")]
MemoryMb = Annotated[int, typer.Option("--memory-mb", help="Memory limit of a scoring process.")]


@rewards_app.command("test")
def test_command(
    reward: Annotated[str, typer.Argument(help="FILE.py:FUNCTION, installed name, sha256:… or NAME@TAG.")],
    *,
    golden: Annotated[Path | None, typer.Option(help="Golden cases, one JSON object a line.")] = None,
    param: Parameters = None,
    timeout_s: TimeoutS = 10.0,
    memory_mb: MemoryMb = 2048,
    redis_url: RedisUrl = "",
    as_json: AsJson = False,
) -> None:
    """Run golden cases in the sandbox: expected, got, time. Exits 1 on any miss.

    [bold]mgrd rewards test my_rewards.py:pitch_named --golden cases.jsonl[/bold]

    A case: {"case": "right letter", "question": {"prompt": "…", "answer": "dog", "answer_kind": "choice", "choices": ["dog",
    "owl"]}, "response": "<think>\\nI hear a dog.\\n</think>\\nA", "expected": 1.0}. Expected may also be {"low": 0.2, "high": 0.6}
    or {"invalid": "part of the reason"}. Without --golden: the cases shipped or published with the reward.
    """
    from orchestrator.rewards_views import cases_json, cases_table
    from rewards import lab

    with refusing():
        subject = _subjects([reward], _parameters(param), redis_url)[0]
        cases = lab.golden_cases(subject, golden)
        with _progress("golden cases", len(cases), as_json) as advance:
            results = lab.run_cases(subject, cases, limits=_limits(timeout_s, memory_mb), advance=advance)
    missed = sum(not result.passed for result in results)
    if as_json:
        version = subject.bundle.hash if subject.bundle else subject.resolve().version
        _print_json({"reward": subject.name, "version": version, "missed": missed, "cases": cases_json(results)})
    else:
        console.print(cases_table(f"{reward}: {len(results) - missed} of {len(results)} golden cases", results))
    raise typer.Exit(MISSED if missed else 0)


@rewards_app.command("score")
def score_command(
    file: Annotated[
        Path, typer.Argument(help='JSONL (or .gz): {"question", "response"}, samples, or a run\'s trajectories.')
    ],
    *,
    reward: Annotated[list[str], typer.Option("--reward", "-r", help="REWARD or REWARD=weight; as many as you like.")],
    out: Annotated[Path | None, typer.Option(help="Write every verdict to this file, one JSON object a line.")] = None,
    timeout_s: TimeoutS = 10.0,
    memory_mb: MemoryMb = 2048,
    redis_url: RedisUrl = "",
    as_json: AsJson = False,
) -> None:
    """Score trajectories without a run: mean and spread of every component, and why some are invalid.

    [bold]mgrd rewards score runs/demo/trajectories/update_000010.jsonl.gz -r answer=0.8 -r my_rewards.py:pitch_named=0.2[/bold]
    """
    from orchestrator.rewards_views import summary, summary_table
    from rewards import lab, read_samples

    with refusing():
        weighted = [_weighted(text) for text in reward]
        subjects = _subjects([reference for reference, _ in weighted], {}, redis_url)
        terms = [(s.resolve(), weight) for s, (_, weight) in zip(subjects, weighted, strict=True)]
        samples = list(read_samples(file))
        if not samples:
            raise RewardError(f"{file} holds no trajectory")
        with (
            lab.open_scorer(terms, _limits(timeout_s, memory_mb)) as scorer,
            _progress("trajectories", len(samples), as_json) as advance,
        ):
            verdicts = list(lab.score(scorer, samples, advance))
        versions = {term.name: term.version for term, _ in terms}
        rows = [
            {"id": sample.trajectory_id} | dataclasses.asdict(verdict)
            for sample, verdict in zip(samples, verdicts, strict=True)
        ]
        if out:
            _write_lines(out, rows)
    figures = summary(verdicts) | {"versions": versions}
    if as_json:
        _print_json(figures if out else figures | {"verdicts": rows})
    else:
        console.print(summary_table(str(file), figures))


@rewards_app.command("diff")
def diff_command(
    a: Annotated[str, typer.Argument(help="What the run used, say: name, FILE.py:FUNCTION, sha256:… or NAME@TAG.")],
    b: Annotated[str, typer.Argument(help="What you would use instead.")],
    *,
    run: Annotated[Path, typer.Option("--run", help="Directory of a run; its trajectories/ are scored again.")],
    limit: Annotated[int, typer.Option(help="At most so many trajectories, the run's last ones; 0 all.")] = 0,
    keep: Annotated[int, typer.Option(help="Flipped cases to show.")] = 20,
    timeout_s: TimeoutS = 10.0,
    memory_mb: MemoryMb = 2048,
    redis_url: RedisUrl = "",
    as_json: AsJson = False,
) -> None:
    """Score a run's trajectories with two versions: agreement, mean shift, the flipped cases.

    [bold]mgrd rewards diff answer my_rewards.py:answer --run runs/demo-seed7[/bold]
    """
    from orchestrator.rewards_views import difference_table
    from rewards import lab

    with refusing():
        first, second = _subjects([a, b], {}, redis_url)
        samples, count = _run_samples(run, limit)
        with _progress("trajectories", count, as_json) as advance:
            found = lab.diff(first, second, samples, limits=_limits(timeout_s, memory_mb), keep=keep, advance=advance)
    if as_json:
        versions = {"a": first.resolve().version, "b": second.resolve().version}
        _print_json(dataclasses.asdict(found) | {"error": found.error, "versions": versions})
    else:
        console.print(difference_table(a, b, found))


@rewards_app.command("register")
def register_command(
    reward: Annotated[str, typer.Argument(help="FILE.py:FUNCTION; leave out with --url.", show_default=False)] = "",
    *,
    golden: Annotated[Path | None, typer.Option(help="Golden cases; all must pass.")] = None,
    url: Annotated[str, typer.Option(help="Register a remote reward: the address that gets POSTed batches.")] = "",
    name: Annotated[str, typer.Option(help="Name of a remote reward.")] = "",
    tag: Annotated[str, typer.Option(help="Also move NAME@TAG to this version.")] = "",
    note: Annotated[str, typer.Option(help="What is new, for people.")] = "",
    param: Parameters = None,
    timeout_s: TimeoutS = 10.0,
    memory_mb: MemoryMb = 2048,
    redis_url: RedisUrl = "",
    as_json: AsJson = False,
) -> None:
    """Publish a reward under its content hash: source, libraries, parameters and golden cases, which must pass.

    [bold]mgrd rewards register my_rewards.py:pitch_named --golden cases.jsonl --tag stable -p tolerance_hz=5[/bold]

    [bold]mgrd rewards register --url https://rewards.example/score --name style[/bold]
    """
    from orchestrator.rewards_views import cases_json, cases_table
    from rewards import lab

    with refusing():
        if bool(url) == bool(reward) or bool(url) != bool(name):
            raise RewardError("register FILE.py:FUNCTION --golden CASES, or --url URL --name NAME")
        if url:
            bundle = lab.remote_bundle(name, url, _parameters(param))
        elif golden is None:
            raise RewardError(f"{reward} can't be registered without golden cases; name a file of them with --golden")
        elif not lab.is_file_reference(reward):
            raise RewardError(f"{reward!r} is no FILE.py:FUNCTION; what is installed is pinned by its version as it is")
        else:
            bundle = lab.bundle_file(reward, _parameters(param), golden)
        with (
            open_store(redis_url) as store,
            _progress("golden cases", len(bundle.golden), as_json) as advance,
        ):
            digest, results = lab.publish(
                store,
                bundle,
                golden=golden,
                tag=tag,
                note=note,
                limits=_limits(timeout_s, memory_mb),
                advance=advance,
            )
    if as_json:
        _print_json({"name": bundle.name, "version": digest, "tag": tag, "cases": cases_json(results)})
    else:
        if results:
            console.print(cases_table(f"{bundle.name}: golden cases", results))
        if digest:
            use = f"reward.terms.{bundle.name}.weight=1.0 reward.terms.{bundle.name}.version={digest}"
            console.print(f"[bold]{bundle.name}[/bold] is {digest}\nuse it: {use}", highlight=False, soft_wrap=True)
    if not digest:
        errors.print("[red]not registered:[/red] golden cases miss")
        raise typer.Exit(MISSED)


@rewards_app.command("list")
def list_command(
    retired: Annotated[bool, typer.Option("--all", help="Retired versions, too.")] = False,
    redis_url: RedisUrl = "",
    as_json: AsJson = False,
) -> None:
    """What is installed and what is published."""
    from orchestrator.rewards_views import installed_json, installed_table, published_table
    from rewards import broken_plugins, registered

    with refusing():
        functions, broken = registered(), broken_plugins()
        with open_store(redis_url) as store:
            lines = store.list(retired=retired)
    if as_json:
        published = [dataclasses.asdict(line) for line in lines]
        _print_json({"installed": installed_json(functions), "published": published, "broken_plugins": broken})
        return
    console.print(installed_table(functions))
    if lines:
        console.print(published_table(lines))
    else:
        console.print("nothing is published yet; see `mgrd rewards register --help`", highlight=False)
    for problem in broken.values():
        errors.print(f"[yellow]{escape(problem)}[/yellow]", highlight=False)


@rewards_app.command("show")
def show_command(
    reward: Annotated[str, typer.Argument(help="sha256:… (12 digits or more) or NAME@TAG.")],
    source: Annotated[bool, typer.Option("--source", help="Print the source, too.")] = False,
    redis_url: RedisUrl = "",
    as_json: AsJson = False,
) -> None:
    """One published version: parameters, files, libraries, golden cases, source."""
    from orchestrator.rewards_views import bundle_table

    with refusing(), open_store(redis_url) as store:
        version, name = _version_and_name(reward)
        line, bundle = store.show(version, name=name)
    if as_json:
        _print_json(dataclasses.asdict(line) | {"bundle": dataclasses.asdict(bundle)})
        return
    console.print(bundle_table(line, bundle))
    for path, text in bundle.sources.items() if source else ():
        console.rule(path)
        console.print(Syntax(text, "python"))


@rewards_app.command("retire")
def retire_command(
    reward: Annotated[str, typer.Argument(help="sha256:… (12 digits or more) or NAME@TAG.")],
    note: Annotated[str, typer.Option(help="Why; shown to whoever asks for it.")] = "",
    undo: Annotated[bool, typer.Option("--undo", help="Take a retirement back.")] = False,
    redis_url: RedisUrl = "",
    as_json: AsJson = False,
) -> None:
    """Keep a version from new runs. Runs that were started with it may go on; nothing is deleted."""
    with refusing(), open_store(redis_url) as store:
        version, name = _version_and_name(reward)
        digest = store.find(version, name=name, retired=True)
        store.retire(digest, note=note, undo=undo)
    if as_json:
        _print_json({"version": digest, "retired": not undo})
    else:
        console.print(f"{digest} {'is in use again' if undo else 'is retired'}", highlight=False)


@contextmanager
def refusing() -> Iterator[None]:
    """Turns what can't work into a message and exit status 2."""
    try:
        yield
    except (RewardError, MgrdError, OSError) as error:
        refuse(error)


def refuse(error: Exception) -> NoReturn:
    errors.print(f"[red]refused:[/red] {escape(str(error))}", highlight=False)
    raise typer.Exit(REFUSED)


def _subjects(references: Sequence[str], parameters: dict[str, Any], redis_url: str) -> list[Subject]:
    """All found, the registry opened only when one of them is in it."""
    from rewards import lab

    with open_store(redis_url) if any(map(lab.needs_store, references)) else nullcontext() as store:
        return [
            lab.pick(reference, store=store, folder=bundle_dir(), parameters=parameters) for reference in references
        ]


def _limits(timeout_s: float, memory_mb: int) -> Limits:
    from rewards import Limits

    return Limits(timeout_s=timeout_s, memory_mb=memory_mb)


def _parameters(texts: Sequence[str] | None) -> dict[str, Any]:
    """Raises RewardError for one that is not name=value."""
    found: dict[str, Any] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise RewardError(f"{text!r} is no parameter; write name=value")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _weighted(text: str) -> tuple[str, float]:
    reference, equals, weight = text.rpartition("=")
    if not equals:
        return text, 1.0
    try:
        return reference, float(weight)
    except ValueError:
        raise RewardError(f"{text!r}: the weight {weight!r} is no number; write REWARD=0.5") from None


def _version_and_name(reference: str) -> tuple[str, str]:
    name, _, version = reference.rpartition("@")
    return version, name


def _run_samples(run: Path, limit: int) -> tuple[Iterator[Any], int]:
    """The samples of a run and their number, the last ones when limited. Raises RewardError when it kept none."""
    from rewards import TRAJECTORY_SUFFIX, read_stored

    files = sorted((run / "trajectories").glob(f"*{TRAJECTORY_SUFFIX}"))
    if not files:
        raise RewardError(f"{run} keeps no trajectories (*{TRAJECTORY_SUFFIX} in {run / 'trajectories'})")
    total = sum(1 for _ in read_stored(files))
    skip = max(0, total - limit) if limit else 0
    return (stored.sample for stored in islice(read_stored(files), skip, None)), total - skip


@contextmanager
def _progress(what: str, total: int, quiet: bool) -> Iterator[Advance]:
    columns = (SpinnerColumn(), TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True, disable=quiet or not errors.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)


def _write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _print_json(value: Any) -> None:
    console.print_json(json.dumps(value, ensure_ascii=False), indent=None if not console.is_terminal else 2)


rewards_app.command("serve")(serve)
