"""`mgrd up`, `mgrd down`, `mgrd status`: the service as a person handles it.

Neighbours: `supervisor` is the process that they start, ask and look at; `cli` hangs them in. Invariants: `up` returns when the service
takes requests, or says why not and leaves nothing behind; a second `up`, also at the same moment, changes nothing; `down` returns when
no process is left, and nothing that was submitted is lost.
"""

from __future__ import annotations

import dataclasses
import getpass
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import IO, Annotated, Any, NoReturn

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator import paths
from orchestrator.config.shown import hidden
from orchestrator.errors import MgrdError
from orchestrator.processes import ServiceError
from orchestrator.service.home import ALREADY, Home, ServiceRecord
from orchestrator.service.settings import ServiceSettings, read_settings

UP_LIMIT_S = (
    600.0  # the limits of each process are shorter; this one is for a supervisor that is stopped, or has no disk
)
DOWN_LIMIT_S = 120.0  # on top of the grace that experiments get
CANCEL_LIMIT_S = 30.0
POLL_S = 0.1
REFUSED, FAILED, STOPPED, INTERRUPTED = 2, 1, 3, 130

console = Console()
errors = Console(stderr=True)


def up_command(
    *,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay here, log to the terminal; Ctrl-C stops the service.")
    ] = False,
    host: Annotated[str | None, typer.Option(help="Address to listen on; default: this machine only.")] = None,
    port: Annotated[int | None, typer.Option(help="Of the API and the page; 0: any free one. Default 8420.")] = None,
    redis_url: Annotated[str | None, typer.Option("--redis-url", help="Your Redis; default: one of its own.")] = None,
    mlflow_uri: Annotated[
        str | None, typer.Option("--mlflow-uri", help="Your MLflow; default: one of its own.")
    ] = None,
    ray_address: Annotated[
        str | None, typer.Option("--ray-address", help="Your Ray cluster, HOST:6379; default: one of its own.")
    ] = None,
    ray_dashboard: Annotated[
        str | None, typer.Option("--ray-dashboard", help="Where it takes jobs; default: port 8265 of --ray-address.")
    ] = None,
    schedulers: Annotated[int | None, typer.Option(help="Two or more make one redundant.")] = None,
    ssl_certfile: Annotated[str | None, typer.Option("--ssl-certfile", help="PEM; with --ssl-keyfile: HTTPS.")] = None,
    ssl_keyfile: Annotated[str | None, typer.Option("--ssl-keyfile", help="PEM.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="YAML file with any setting; environment and options win.")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any other setting; see docs/DEPLOY.md.")
    ] = None,
) -> None:
    """Start the service: queue, scheduler, API and page, with Redis, MLflow and Ray where you give none.

    [bold]mgrd up[/bold] returns when it takes requests; [bold]mgrd down[/bold] stops it. What was submitted outlives both.
    """
    given = {
        "host": host,
        "port": port,
        "redis_url": redis_url,
        "mlflow_uri": mlflow_uri,
        "ray_address": ray_address,
        "ray_dashboard": ray_dashboard,
        "schedulers": schedulers,
        "ssl_certfile": _absolute(ssl_certfile),
        "ssl_keyfile": _absolute(ssl_keyfile),
    }
    home = Home.default()
    try:
        given |= _pairs(setting or [])
        settings = with_roots(read_settings(given, file=config))
        record = home.record()
        if record.alive:
            _join(home)
            return
        home.make()
        with tempfile.TemporaryFile() as told:
            told.write(msgspec.json.encode(settings))
            told.seek(0)
            if foreground:
                os.dup2(told.fileno(), sys.__stdin__.fileno() if sys.__stdin__ else 0)
                os.execv(sys.executable, _supervisor_argv())
            _start(home, told)
    except MgrdError as error:
        _refuse(error)


def down_command(
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Cancel what is running; default: it goes on with the next mgrd up.")
    ] = False,
) -> None:
    """Stop the service and every process of it. Running experiments pause at a checkpoint and are queued again."""
    home = Home.default()
    try:
        record = home.record()
        if not record.alive:
            console.print("no service runs here; `mgrd up` starts one", highlight=False)
            return
        if cancel:
            _cancel_running(home, record)
        with console.status("stopping: experiments pause at a checkpoint, then the servers end"):
            stop_service(record, DOWN_LIMIT_S + _settings(home).stop_grace_s)
    except MgrdError as error:
        _refuse(error)
    waiting = home.record().stopped
    console.print(
        "stopped; the queue is kept"
        + (f", {len(waiting)} experiments go on with the next `mgrd up`" if waiting else ""),
        highlight=False,
    )


def status_command(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """Say whether the service runs, where, and how its processes are. Exit status 0: it serves; 3: it does not."""
    home = Home.default()
    try:
        record = home.record()
        state = status(home, record)
    except MgrdError as error:
        _refuse(error)
    if as_json:
        console.print_json(msgspec.json.encode(state).decode())
    else:
        _show(state, home)
    raise typer.Exit(0 if state["state"] == "ready" else STOPPED)


def with_roots(settings: ServiceSettings) -> ServiceSettings:
    """Where none are set, configurations may name files below the folder in which `mgrd up` was called, and in the cache."""
    if settings.allowed_roots:
        return settings
    return dataclasses.replace(settings, allowed_roots=(str(Path.cwd()), str(paths.cache_dir().absolute())))


def status(home: Home, record: ServiceRecord) -> dict[str, Any]:
    """What `mgrd status --json` prints; without secrets."""
    rows = home.processes().processes if record.alive else ()
    state = "stopped"
    if record.alive:
        state = (
            "ready" if record.ready and all(row.ready for row in rows) else "degraded" if record.ready else "starting"
        )
    return {
        "state": state,
        "url": record.url,
        "pid": record.pid if record.alive else 0,
        "started_at": record.started_at,
        "redis": hidden(record.redis_url),
        "mlflow": hidden(record.mlflow_uri),
        "ray": record.ray_address,
        "ray_dashboard": record.ray_dashboard,
        "own": list(record.own),
        "access": access(record, _settings(home)),
        "error": record.error,
        "logs": str(home.logs),
        "state_dir": str(home.root),
        "processes": [
            {
                "name": row.name,
                "pid": row.pid,
                "ready": row.ready,
                "restarts": row.restarts,
                "since": row.since,
                "log": row.log,
            }
            for row in rows
        ],
    }


def access(record: ServiceRecord, settings: ServiceSettings) -> str:
    """Who may use it, in words."""
    if not record.token:
        return "no tokens: loopback only"
    where = "loopback only" if settings.loopback else f"reachable on {settings.host}"
    return f"tokens required, {where}; yours is in {Home.default().record_file}"


def stop_service(record: ServiceRecord, limit_s: float) -> None:
    """Ask the supervisor to end and wait until it is gone, with all it began. Raises ServiceError when it is not."""
    os.kill(record.pid, signal.SIGTERM)
    deadline = time.monotonic() + limit_s
    while record.alive:
        if time.monotonic() > deadline:
            raise ServiceError(
                f"the service (process {record.pid}) did not stop within {limit_s:.0f} s: look into its log, then end it with "
                f"kill -9 {record.pid}; its guardian ends the rest, and nothing that was submitted is lost"
            )
        time.sleep(POLL_S)


def _start(home: Home, told: IO[bytes]) -> None:
    """told: the settings; the supervisor keeps them where it is the one that serves."""
    log = home.logs / "supervisor.log"
    begun = log.stat().st_size if log.exists() else 0
    with log.open("ab") as out:
        process = subprocess.Popen(
            _supervisor_argv(),
            stdin=told,
            stdout=out,
            stderr=out,
            start_new_session=True,
            cwd=home.root,
            close_fds=True,
        )
    try:
        with console.status("starting") as view:
            _wait_ready(home, process, view)
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        errors.print("[yellow]stopped[/yellow] before it was ready", highlight=False)
        raise typer.Exit(INTERRUPTED) from None
    if process.returncode == ALREADY:
        _join(home)
        return
    if process.returncode is not None:
        reason = home.record().error or _tail(log, begun)
        errors.print(f"[red]failed:[/red] the service did not start: {escape(reason)}", highlight=False, soft_wrap=True)
        errors.print(f"its logs: {home.logs}", highlight=False, soft_wrap=True)
        raise typer.Exit(FAILED)
    _print_ready(home)


def _wait_ready(home: Home, process: subprocess.Popen[bytes], view: Any) -> None:
    """Until the supervisor is ready or has ended. Raises ServiceError when neither happens."""
    deadline = time.monotonic() + UP_LIMIT_S
    while process.poll() is None:
        record = home.record()
        if record.pid == process.pid and record.ready:
            return
        if time.monotonic() > deadline:
            process.kill()
            process.wait()
            raise ServiceError(
                f"the service was not ready within {UP_LIMIT_S:.0f} s and was ended; its logs: {home.logs}"
            )
        waiting = [row.name for row in home.processes().processes if not row.ready]
        view.update("starting: " + (", ".join(waiting) or "…"))
        time.sleep(POLL_S)


def _print_ready(home: Home) -> None:
    record = home.record()
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in (
        ("page and API", record.url),
        ("MLflow", hidden(record.mlflow_uri)),
        ("Ray", f"{record.ray_address}, dashboard {record.ray_dashboard}"),
        ("access", access(record, _settings(home))),
        ("logs", str(home.logs)),
    ):
        table.add_row(name, escape(value))
    console.print("[green]ready[/green]")
    console.print(table, highlight=False, soft_wrap=True)
    console.print("next: mgrd submit experiment=demo; mgrd ps -w; stop with mgrd down", highlight=False)


def _join(home: Home) -> None:
    """Another one has started it: say where it serves, once it does. Raises ServiceError when it ends instead."""
    deadline = time.monotonic() + UP_LIMIT_S
    with console.status("another `mgrd up` has started the service; waiting until it serves"):
        while (record := home.record()).alive and not record.ready:
            if time.monotonic() > deadline:
                raise ServiceError(f"the service was not ready within {UP_LIMIT_S:.0f} s; its logs: {home.logs}")
            time.sleep(POLL_S)
    if not record.alive:
        raise ServiceError(
            f"the service has just ended{': ' + record.error if record.error else ''}; call `mgrd up` again"
        )
    console.print(
        f"the service already runs: {record.url} (process {record.pid}); to change its settings: mgrd down, then mgrd up",
        highlight=False,
        soft_wrap=True,
    )


def _show(state: dict[str, Any], home: Home) -> None:
    if state["state"] == "stopped":
        console.print("[yellow]stopped[/yellow]: `mgrd up` starts the service", highlight=False)
        if state["error"]:
            console.print(f"it ended because {escape(state['error'])}", highlight=False, soft_wrap=True)
        return
    console.print(f"{state['state']}: {state['url']} ({escape(state['access'])})", highlight=False, soft_wrap=True)
    table = Table("process", "pid", "serves", "restarts", "up", "log")
    for row in state["processes"]:
        up = time.strftime("%d %b %H:%M:%S", time.localtime(row["since"]))
        table.add_row(
            row["name"],
            str(row["pid"]),
            "yes" if row["ready"] else "no",
            str(row["restarts"]),
            up,
            Path(row["log"]).name,
        )
    console.print(table)
    console.print(f"logs: {home.logs}", highlight=False, soft_wrap=True)


def _cancel_running(home: Home, record: ServiceRecord) -> None:
    """Ask for all, then wait until their processes are gone. Raises StoreError."""
    from orchestrator.service.drain import wait_until_still
    from orchestrator.service.messages import Wanted
    from orchestrator.service.store import Store
    from orchestrator.service.store_errors import NotPossible

    with closing(Store.from_url(record.redis_url, _settings(home).redis_prefix)) as store:
        running = store.active()
        for one in running:
            try:
                store.ask(one.id, Wanted.CANCEL, getpass.getuser())
            except NotPossible as error:
                console.print(str(error), highlight=False)
        if running and not wait_until_still(store, CANCEL_LIMIT_S):
            console.print("some experiments did not end in time; they are ended with the service", highlight=False)


def _settings(home: Home) -> ServiceSettings:
    """Those of the last start."""
    if not home.settings_file.exists():
        return ServiceSettings()
    return msgspec.json.decode(home.settings_file.read_bytes(), type=ServiceSettings)


def _supervisor_argv() -> list[str]:
    return [sys.executable, "-m", "orchestrator.service.supervisor"]


def _pairs(settings: list[str]) -> dict[str, str]:
    out = {}
    for text in settings:
        key, sign, value = text.partition("=")
        if not sign:
            raise MgrdError(f"--set {text!r}: write KEY=VALUE, for example --set quota_running=4")
        out[key.strip()] = value
    return out


def _absolute(path: str | None) -> str | None:
    return str(Path(path).absolute()) if path else path


def _tail(log: Path, begun: int) -> str:
    with log.open("rb") as lines:
        lines.seek(begun)
        return "\n".join(lines.read().decode(errors="replace").splitlines()[-12:]) or "it ended without a word"


def _refuse(error: Exception) -> NoReturn:
    errors.print(f"[red]refused:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
    raise typer.Exit(REFUSED)
