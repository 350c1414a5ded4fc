"""What the service consists of: its processes, their command lines, how each is asked whether it serves.

Neighbours: the supervisor runs them in this order; `ray_head` knows Ray's command line, `embedded` those of Redis and MLflow. Invariants:
a server whose address is given is asked, never started; addresses of the last start are taken again when they are free; secrets travel
by files and environments that only their owner can read, never by a command line.
"""

from __future__ import annotations

import dataclasses
import http.client
import math
import os
import secrets
import sys
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import redis

from orchestrator import paths
from orchestrator.config.schema import ExperimentConfig
from orchestrator.config.shown import hidden
from orchestrator.embedded import mlflow_answers, mlflow_command, redis_answers, redis_binary, redis_settings
from orchestrator.errors import MgrdError
from orchestrator.processes import HOST, ServiceError, claim_port
from orchestrator.service import trust
from orchestrator.service.home import Home, ServiceRecord
from orchestrator.service.ray_head import ray_answers, ray_environment, ray_head_command
from orchestrator.service.settings import ServiceSettings

REDIS, MLFLOW, RAY, API, SCHEDULER = "redis", "mlflow", "ray", "api", "scheduler"
READY_S = 600.0  # beside a training run everything is slow; what dies is told at once
HANG_S = {REDIS: 120.0, MLFLOW: 300.0, RAY: math.inf, API: 120.0, SCHEDULER: math.inf}  # Ray's helpers watch each other
ASK_S = 3.0
ROTATION = {"RAY_ROTATION_MAX_BYTES": str(64 << 20), "RAY_ROTATION_BACKUP_COUNT": "3"}  # of each of Ray's own log files


@dataclass(frozen=True, slots=True)
class Member:
    """One process to keep. answers: quick, never raises; see `processes.ServiceProcess` for launcher, family and hang_s."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    answers: Callable[[], bool]
    ready_s: float
    hang_s: float = 0.0
    launcher: bool = False
    family: bool = False


def place(settings: ServiceSettings, last: ServiceRecord) -> ServiceRecord:
    """Addresses of every server, the service's own ones on the ports of `last` where they are free. Starts nothing.

    Raises ServiceError when the API's port is in use.
    """
    used: set[int] = set()
    port = claim_port(settings.port) if settings.port else _port_again(_kept_port(last.url), used)
    used.add(port)
    scheme = "https" if settings.ssl_certfile else "http"
    shown = HOST if settings.host in ("0.0.0.0", "::", "") else settings.host
    own = []
    redis_url, mlflow_uri, ray_address, dashboard = (
        settings.redis_url,
        settings.mlflow_uri,
        settings.ray_address,
        settings.ray_dashboard,
    )
    if not redis_url:
        own.append(REDIS)
        before = urlsplit(last.redis_url) if REDIS in last.own else None
        password = (before.password if before else None) or secrets.token_urlsafe(24)
        redis_url = f"redis://:{password}@{HOST}:{_port_again(before.port if before else 0, used)}/0"
    if not mlflow_uri:
        own.append(MLFLOW)
        mlflow_uri = f"http://{HOST}:{_port_again(_kept_port(last.mlflow_uri) if MLFLOW in last.own else 0, used)}"
    ray_token = ""
    if not ray_address:
        own.append(RAY)
        kept = RAY in last.own
        ray_token = (last.ray_token if kept else "") or secrets.token_hex(32)
        ray_address = f"{HOST}:{_port_again(_kept_port('//' + last.ray_address) if kept else 0, used)}"
        dashboard = f"http://{HOST}:{_port_again(_kept_port(last.ray_dashboard) if kept else 0, used)}"
    elif not dashboard:
        dashboard = f"http://{ray_address.removeprefix('ray://').rsplit(':', 1)[0]}:8265"
    return ServiceRecord(
        url=f"{scheme}://{shown}:{port}",
        token=last.token,
        redis_url=redis_url,
        mlflow_uri=mlflow_uri,
        ray_address=ray_address,
        ray_dashboard=dashboard,
        ray_token=ray_token,
        own=tuple(own),
        certificate=settings.ssl_certfile,
    )


def members(settings: ServiceSettings, record: ServiceRecord, home: Home) -> list[Member]:
    """Those that the service keeps itself, in order of their start."""
    out = []
    if REDIS in record.own:
        out.append(_redis(settings, record, home))
    if MLFLOW in record.own:
        out.append(_mlflow(settings, record))
    if RAY in record.own:
        out.append(_ray(settings, record, home))
    environment = child_environment(settings, record)
    out.append(
        _python(API, "orchestrator.service.api", environment, lambda: api_answers(record.url, settings.ssl_certfile))
    )
    for number in range(settings.schedulers):
        name = f"{SCHEDULER}-{number}"
        out.append(_python(name, "orchestrator.service.scheduler", environment, lambda: True))
    return out


def check_given(record: ServiceRecord) -> None:
    """Ask the servers that are not the service's own, once. Raises ServiceError for one that does not answer."""
    if REDIS not in record.own and not redis_url_answers(record.redis_url):
        raise ServiceError(
            f"no Redis answers at {hidden(record.redis_url)}: start it, correct --redis-url, or leave it out"
        )
    if MLFLOW not in record.own and not mlflow_answers(record.mlflow_uri):
        raise ServiceError(
            f"no MLflow server answers at {hidden(record.mlflow_uri)}: start it, correct --mlflow-uri, or leave it out"
        )
    if RAY not in record.own and not ray_answers(record.ray_dashboard, os.environ.get("RAY_AUTH_TOKEN", "")):
        raise ServiceError(
            f"no Ray dashboard answers at {record.ray_dashboard}: start the cluster with its dashboard, correct --ray-address or "
            "--ray-dashboard, or leave them out; a cluster that asks for a token needs RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        )


def child_environment(settings: ServiceSettings, record: ServiceRecord) -> dict[str, str]:
    """Of API and scheduler: every setting resolved, Ray's secret, and what this process has."""
    port = urlsplit(record.url).port or settings.port
    resolved = dataclasses.replace(
        settings,
        port=port,
        redis_url=record.redis_url,
        mlflow_uri=record.mlflow_uri,
        ray_address=record.ray_address,
        ray_dashboard=record.ray_dashboard,
    )
    environment = _without_ray(os.environ) if record.ray_token else dict(os.environ)
    environment |= resolved.environment() | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    if record.ray_token:
        environment |= ray_environment(record.ray_token)
    return environment


def redis_url_answers(url: str) -> bool:
    """Quickly, without raising."""
    try:
        with redis.from_url(url, socket_timeout=ASK_S, socket_connect_timeout=ASK_S) as client:
            return bool(client.ping())
    except (redis.RedisError, ValueError):
        return False


def api_answers(url: str, certificate: str = "") -> bool:
    """`/healthz` of this machine's own API, quickly, without raising. certificate: the file it serves, trusted as it stands."""
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if certificate:
        try:
            handlers.append(urllib.request.HTTPSHandler(context=trust.only(certificate)))
        except MgrdError:
            return False  # it is being replaced
    try:
        with urllib.request.build_opener(*handlers).open(f"{url}/healthz", timeout=ASK_S) as reply:
            return bool(reply.status == 200)
    except (OSError, ValueError, http.client.HTTPException):
        return False


def _redis(settings: ServiceSettings, record: ServiceRecord, home: Home) -> Member:
    parts = urlsplit(record.redis_url)
    port, password = parts.port or 0, parts.password or ""
    config = home.redis / "server.conf"
    Home.write(config, redis_settings(home.redis, port, password, settings.redis_fsync).encode())
    return Member(
        REDIS,
        (redis_binary(), str(config)),
        dict(os.environ),
        lambda: redis_answers(port, password),
        READY_S,
        HANG_S[REDIS],
    )


def _mlflow(settings: ServiceSettings, record: ServiceRecord) -> Member:
    root = Path(settings.mlflow_root) if settings.mlflow_root else paths.mlflow_root(ExperimentConfig())
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ServiceError(
            f"{root} can't be created ({error.strerror}): set mlflow_root to a folder you may write to"
        ) from error
    argv, environment = mlflow_command(root.absolute(), urlsplit(record.mlflow_uri).port or 0)
    return Member(
        MLFLOW,
        tuple(argv),
        os.environ | environment,
        lambda: mlflow_answers(record.mlflow_uri),
        READY_S,
        HANG_S[MLFLOW],
        launcher=True,
    )


def _ray(settings: ServiceSettings, record: ServiceRecord, home: Home) -> Member:
    ports = {"port": _kept_port("//" + record.ray_address), "dashboard_port": _kept_port(record.ray_dashboard)}
    while True:
        argv = ray_head_command(**ports, settings=settings, state=home.root)
        given = [part.partition("=")[2] for part in argv if part.partition("=")[0].endswith("port")]
        if len(set(given)) == len(given):  # each is free, but two may be the same
            break
    return Member(
        RAY,
        tuple(argv),
        _without_ray(os.environ) | ray_environment(record.ray_token) | ROTATION,
        lambda: ray_answers(record.ray_dashboard, record.ray_token),
        READY_S,
        HANG_S[RAY],
        family=True,
    )


def _python(name: str, module: str, environment: Mapping[str, str], answers: Callable[[], bool]) -> Member:
    kind = name.split("-", 1)[0]
    return Member(name, (sys.executable, "-m", module), environment, answers, READY_S, HANG_S[kind])


def _port_again(wanted: int | None, used: set[int]) -> int:
    """The port of last time, else any."""
    try:
        port = claim_port(wanted) if wanted and wanted not in used else 0
    except ServiceError:
        port = 0
    used.add(port)
    return port or _new_port(used)


def _new_port(used: set[int]) -> int:
    """A free one that was not given out before: none of them is in use yet."""
    while (port := claim_port()) in used:
        continue
    used.add(port)
    return port


def _kept_port(url: str) -> int:
    return urlsplit(url).port or 0


def _without_ray(environment: Mapping[str, str]) -> dict[str, str]:
    """Another cluster's address and secret must not lead the service's own Ray astray."""
    strangers = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_API_SERVER_ADDRESS")
    return {key: value for key, value in environment.items() if key not in strangers}
