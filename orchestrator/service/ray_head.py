"""The command line of the service's own Ray: one head on this machine, with fixed ports, a dashboard that takes jobs, and a secret.

Neighbours: `members` says where it listens, the supervisor keeps it; `launcher` and `capacity` talk to its dashboard. Invariants: the
dashboard listens on the loopback address only, and nothing of it answers without the token; its files lie in a folder of its own, so
that jobs find this head and no other one of the machine; everything it starts ends with it.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from pathlib import Path

import httpx

from orchestrator import paths
from orchestrator.errors import MgrdError
from orchestrator.processes import HOST, claim_port
from orchestrator.service.settings import ServiceSettings

INNER_PORTS = (  # that only Ray's own processes use
    *("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port", "metrics-export-port"),
    *("node-manager-port", "object-manager-port", "ray-client-server-port"),
)
TEMPORARY = Path("/tmp")  # Ray's sockets are below it, and a socket's path has at most 107 characters
ASK_S = 5.0


class RayFolderTaken(MgrdError):
    """The folder for Ray's sockets belongs to somebody else."""


def ray_head_command(
    *, port: int, dashboard_port: int, settings: ServiceSettings, state: Path | None = None
) -> list[str]:
    """port, dashboard_port: where others reach it; state: of the service, decides Ray's folder, None: the default one.

    Raises RayFolderTaken, ServiceError when no port is free.
    """
    argv = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    argv += [f"--node-ip-address={HOST}", f"--dashboard-host={HOST}", "--include-dashboard=true", "--log-color=false"]
    argv += [f"--port={port}", f"--dashboard-port={dashboard_port}"]
    argv += [f"--{name}={claim_port()}" for name in INNER_PORTS]
    argv += [f"--object-store-memory={settings.object_store_mb << 20}"]
    argv += [f"--temp-dir={sockets_folder(state or paths.state_dir())}"]
    argv += [f"--num-cpus={settings.ray_cpus}"] if settings.ray_cpus >= 0 else []
    argv += [f"--num-gpus={settings.ray_gpus}"] if settings.ray_gpus >= 0 else []
    return argv


def ray_environment(token: str) -> dict[str, str]:
    """Of the head, and of every process that joins it; Ray reads it when it is imported."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # Ray's default of 15 lets any other process starve a run
        "RAY_raylet_start_wait_time_s": "120",  # its defaults of 30 s and 60 s are short on a busy small machine
        "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300",
        "RAY_process_group_cleanup_enabled": "1",  # what a killed worker had started (an engine's core) ends with it
    }


def ray_answers(dashboard: str, token: str = "") -> bool:
    """Whether it takes jobs, quickly, without raising."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        reply = httpx.get(f"{dashboard.rstrip('/')}/api/jobs/", headers=headers, timeout=ASK_S, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL):
        return False
    return bool(reply.status_code == httpx.codes.OK)


def sockets_folder(state: Path) -> Path:
    """One a service and user, created for its owner only. Raises RayFolderTaken."""
    name = hashlib.sha256(str(state.absolute()).encode()).hexdigest()[:10]
    folder = TEMPORARY / f"mgrd-ray-{os.getuid()}-{name}"
    folder.mkdir(mode=0o700, exist_ok=True)
    held = folder.lstat()
    if held.st_uid != os.getuid() or not stat.S_ISDIR(held.st_mode):
        raise RayFolderTaken(f"{folder} belongs to another user: remove it, or set MGRD_STATE to another folder")
    return folder
