"""`mgrd doctor`: gathers the facts, has them judged, shows the table.

Neighbours: `software`, `machine`, `servers`, `content` judge. Invariants: one check that can't be done is a finding, not the end; exit
status 1 exactly when something fails.
"""

from __future__ import annotations

import os
import platform
import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
import psutil
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from actor import engine_version
from orchestrator import paths
from orchestrator.config.schema import ExperimentConfig
from orchestrator.doctor import content, machine, servers, software
from orchestrator.doctor.findings import Finding, Level, fail, ok, worst
from orchestrator.errors import MgrdError
from orchestrator.processes import ServiceError, claim_port
from orchestrator.service import trust
from orchestrator.service.home import Home, ServiceRecord
from orchestrator.service.members import MLFLOW, RAY
from orchestrator.service.settings import ServiceSettings, keys, read_settings, variable

COLOURS = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}
FIRST_PRESET = "tiny"  # that every example uses; the others are checked where they were fetched

console = Console()


def doctor_command(
    *,
    config: Annotated[Path | None, typer.Option("--config", help="Settings of the service, as for mgrd up.")] = None,
    model_path: Annotated[
        list[str] | None, typer.Option("--model", help="A folder of weights to look at, too.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Check this machine: versions, GPUs, memory, disks, ports, Redis, MLflow, Ray, models, data. Exit status 1 when something fails."""
    findings = examine(config, model_path or [])
    if as_json:
        console.print_json(msgspec.json.encode(findings).decode())
    else:
        _show(findings)
    raise typer.Exit(1 if worst(findings) is Level.FAIL else 0)


def examine(config: Path | None = None, models: list[str] | None = None) -> list[Finding]:
    """Every finding, in the order of the table."""
    findings = list(_software())
    try:
        settings = read_settings({}, file=config)
        home, record = Home.default(), Home.default().record()
    except MgrdError as error:
        return [*findings, fail("settings", str(error), "correct them; the checks of servers were left out")]
    with ThreadPoolExecutor(3) as pool:  # each waits for its server, not for the others
        asked = [pool.submit(ask, settings, record) for ask in (_redis, _mlflow, _ray)]
        findings += _machine(settings, home, record)
        for waited in asked:
            findings += waited.result()
    findings.append(_service(home, record))
    findings += _content(settings, models or [])
    return findings


def _software() -> Iterator[Finding]:
    installed = software.installed_version
    yield software.python(platform.python_version())
    yield software.declared_packages(software.requirements(), installed, software.extras_in_use())
    if software.LOCK.is_file() and "cpu" in software.extras_in_use():
        yield software.pinned_packages(software.LOCK.read_text(), installed)
    yield software.torch_family(installed)
    yield software.importable(software.gather_importable())
    yield software.redis_server()
    yield software.variables(os.environ, [variable(key) for key in keys()])


def _machine(settings: ServiceSettings, home: Home, record: ServiceRecord) -> Iterator[Finding]:
    torch = software.installed_version("torch")
    devices = machine.gather_devices(torch)
    yield machine.devices(devices, torch)
    yield machine.kernels(devices, engine_version())
    yield machine.instructions(platform.machine(), machine.gather_flags())
    memory = psutil.virtual_memory()
    free, total = machine.gather_memory(memory.available, memory.total)
    yield machine.memory(free, total, ExperimentConfig().run.min_free_memory_gib)
    shm = Path("/dev/shm")
    room = psutil.disk_usage(str(shm)).free / machine.GIB if shm.is_dir() else None
    yield machine.shared_memory(room, settings.object_store_mb / 1024)
    for what, path in (
        ("state", home.root),
        ("cache", paths.cache_dir()),
        ("runs here", Path.cwd() / "runs"),
        ("Ray", Path("/tmp")),
    ):
        yield machine.disk(machine.gather_disk(what, path), settings.min_free_disk_gib)
    mounts = [(part.mountpoint, part.fstype) for part in psutil.disk_partitions(all=True)]
    yield machine.shared_folder(
        machine.file_system(home.root.resolve(), mounts), str(home.root), bool(settings.ray_address)
    )
    yield machine.descriptors(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    ours = record.alive and urlsplit(record.url).port == settings.port
    yield machine.port(settings.port, ours or _is_free(settings.port), ours)


def _redis(settings: ServiceSettings, record: ServiceRecord) -> list[Finding]:
    url = settings.redis_url or (record.redis_url if record.alive else "")
    if not url:
        return [ok("Redis", "none is running; mgrd up starts one with an append-only file")]
    return servers.redis_keeps(url, servers.gather_redis(url))


def _mlflow(settings: ServiceSettings, record: ServiceRecord) -> list[Finding]:
    uri = settings.mlflow_uri or (record.mlflow_uri if record.alive else "")
    client = servers.client_version(MLFLOW)
    if not uri:
        return [ok("MLflow", f"none is running; runs and mgrd up start version {client}")]
    return [servers.mlflow(uri, servers.get(f"{uri.rstrip('/')}/version"), client)]


def _ray(settings: ServiceSettings, record: ServiceRecord) -> list[Finding]:
    own = record.alive and RAY in record.own and not settings.ray_address
    client = servers.client_version(RAY)
    if not settings.ray_address and not record.alive:
        return [ok("Ray", f"none is running; runs and mgrd up start version {client}")]
    address = settings.ray_address or record.ray_address
    host = address.removeprefix("ray://").rsplit(":", 1)[0]
    dashboard = record.ray_dashboard if not settings.ray_address else settings.ray_dashboard or f"http://{host}:8265"
    token = record.ray_token if own else os.environ.get("RAY_AUTH_TOKEN", "")
    answer = servers.get(f"{dashboard.rstrip('/')}/api/version", token)
    return [servers.ray(address, answer, servers.ray_version(answer), client)]


def _service(home: Home, record: ServiceRecord) -> Finding:
    if not record.alive:
        return servers.service(record, (), servers.Answer(0, ""))
    try:
        verify = trust.only(record.certificate) if record.certificate else True
        answer = servers.get(f"{record.url}/readyz", record.token, verify=verify)
    except MgrdError as error:
        answer = servers.Answer(0, str(error))
    return servers.service(record, home.processes().processes, answer)


def _content(settings: ServiceSettings, models: list[str]) -> Iterator[Finding]:
    for preset, places in content.gather_presets().items():
        if preset == FIRST_PRESET or any(places.values()):
            yield content.model(preset, places)
    for path in models:
        folder = Path(path)
        yield content.model_folder(
            "model.path", path, [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
        )
    yield content.gather_data()
    missing = [root for root in settings.allowed_roots if not Path(root).is_dir()]
    yield content.roots(missing, settings.allowed_roots)


def _is_free(port: int) -> bool:
    try:
        claim_port(port)
    except ServiceError:
        return False
    return True


def _show(findings: list[Finding]) -> None:
    table = Table("check", "", "what is", "what to do", show_lines=False)
    for finding in findings:
        colour = COLOURS[finding.level]
        table.add_row(
            finding.name, f"[{colour}]{finding.level}[/{colour}]", escape(finding.found), escape(finding.advice)
        )
    console.print(table)
    counts = {level: sum(finding.level is level for finding in findings) for level in Level}
    console.print(", ".join(f"{count} {level}" for level, count in counts.items()), highlight=False)


__all__ = ["doctor_command", "examine"]
