"""Redis, MLflow, Ray and the service itself: those that run already, by address, and whether they suit us.

Neighbours: `command` says where they are, `store_persistence` judges Redis. Invariants: every question has a limit; passwords are
not shown.
"""

from __future__ import annotations

import importlib.metadata
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx
import redis

from orchestrator.config.shown import hidden
from orchestrator.doctor.findings import Finding, fail, ok, warn
from orchestrator.service.home import ProcessRecord, ServiceRecord
from orchestrator.service.store_persistence import persistence_problems

ASK_S = 5.0
OLDEST_REDIS = (6, 2)  # streams read from an exclusive id; Valkey tells 7.2
SKEW_WARN_S, SKEW_FAIL_S = 1.0, 10.0  # leases are times of this machine's clock, seen by others


@dataclass(frozen=True, slots=True)
class RedisFacts:
    """version: as it tells; skew_s: this machine's clock minus the server's; problems: of what it keeps;
    complaint: why it was not asked."""

    version: str = ""
    skew_s: float = 0.0
    problems: tuple[str, ...] = ()
    complaint: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """status: 0 when nothing answered; text: of the answer, or why there is none."""

    status: int
    text: str


def redis_keeps(url: str, found: RedisFacts) -> list[Finding]:
    """Reachable, new enough, durable, of one mind about the time."""
    where = hidden(url)
    if found.complaint:
        return [
            fail(
                "Redis",
                f"{where}: {found.complaint}",
                "start it, or correct the address; without it the service stands still",
            )
        ]
    out = []
    if _numbers(found.version) < OLDEST_REDIS:
        out.append(fail("Redis", f"{where}: version {found.version}", "use Redis 6.2 or later, or Valkey"))
    else:
        out.append(ok("Redis", f"{where}: version {found.version}"))
    if found.problems:
        out.append(
            fail(
                "Redis keeps its data",
                "; ".join(found.problems),
                "change it in its configuration file, so that it holds after a restart",
            )
        )
    else:
        out.append(ok("Redis keeps its data", "append-only file on, nothing is evicted"))
    skew = f"{abs(found.skew_s):.1f} s {'ahead of' if found.skew_s > 0 else 'behind'} Redis"
    advice = "synchronise the machines' clocks (chrony, systemd-timesyncd): leases would end early or late"
    if abs(found.skew_s) > SKEW_FAIL_S:
        out.append(fail("clock", skew, advice))
    elif abs(found.skew_s) > SKEW_WARN_S:
        out.append(warn("clock", skew, advice))
    else:
        out.append(ok("clock", "agrees with Redis"))
    return out


def mlflow(uri: str, answer: Answer, client: str) -> Finding:
    """answer: of GET /version; client: version of the package here."""
    if answer.status != 200:
        return fail(
            "MLflow",
            f"{uri}: {answer.text}",
            "start it, or correct --mlflow-uri; runs keep their records meanwhile, and deliver them later",
        )
    server = answer.text.strip().strip('"')
    if _numbers(server)[:1] != _numbers(client)[:1]:
        return warn("MLflow", f"{uri}: server {server}, client {client}", "bring both to the same major version")
    return ok("MLflow", f"{uri}: version {server}")


def ray(address: str, answer: Answer, version: str, client: str) -> Finding:
    """answer: of GET /api/version; version: what it says. Ray refuses a driver of another version."""
    if answer.status in (401, 403):
        return fail(
            "Ray", f"{address}: asks for a token", "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to the cluster's"
        )
    if answer.status != 200:
        return fail(
            "Ray",
            f"{address}: {answer.text}",
            "start the cluster with its dashboard, or correct --ray-address and --ray-dashboard",
        )
    if version != client:
        return fail(
            "Ray",
            f"{address}: version {version}, here {client}",
            f"use one version on all machines: pip install ray=={version}",
        )
    return ok("Ray", f"{address}: version {version}")


def service(record: ServiceRecord, rows: Sequence[ProcessRecord], health: Answer) -> Finding:
    """health: of GET /readyz."""
    if not record.alive:
        if record.error:
            return warn("service", f"stopped, because {record.error}", "mend that, then mgrd up")
        return ok("service", "stopped; mgrd up starts it")
    away = [row.name for row in rows if not row.ready]
    if away:
        return fail("service", f"{', '.join(away)} of {record.url} do not serve", "mgrd status names their logs")
    if health.status != 200:
        return fail(
            "service",
            f"{record.url}/readyz: {health.status or 'no answer'}: {health.text[:200]}",
            "mgrd status names the logs",
        )
    often = [f"{row.name} {row.restarts} times" for row in rows if row.restarts]
    if often:
        return warn(
            "service", f"serves at {record.url}; started again: {', '.join(often)}", "mgrd status names their logs"
        )
    return ok("service", f"serves at {record.url}")


def gather_redis(url: str) -> RedisFacts:
    try:
        with redis.Redis.from_url(
            url, socket_timeout=ASK_S, socket_connect_timeout=ASK_S, decode_responses=True
        ) as client:
            begun = time.time()
            seconds, micros = client.time()  # type: ignore[misc]
            here = (begun + time.time()) / 2
            version = str(client.info("server")["redis_version"])  # type: ignore[index]
            return RedisFacts(version, here - (int(seconds) + int(micros) / 1e6), tuple(persistence_problems(client)))
    except (redis.RedisError, ValueError) as error:
        return RedisFacts(complaint=f"{type(error).__name__}: {error}")


def get(url: str, token: str = "", *, verify: bool | ssl.SSLContext = True) -> Answer:
    """GET, with a limit; what went wrong is text."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        reply = httpx.get(url, headers=headers, timeout=ASK_S, trust_env=False, verify=verify)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Answer(0, f"does not answer ({type(error).__name__})")
    return Answer(reply.status_code, reply.text)


def ray_version(answer: Answer) -> str:
    try:
        return str(httpx.Response(200, text=answer.text).json()["ray_version"])
    except (ValueError, KeyError, TypeError):
        return "unknown"


def client_version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.strip().split(".")
    return tuple(int(part) for part in parts if part.isdigit())
