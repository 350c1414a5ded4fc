"""The servers of a run on one machine: Redis, MLflow and Ray, for whoever brings none.

Neighbours: the controller enters `EmbeddedServices` and gets addresses; `processes.py` keeps the servers up, `guardian.py` ends them if
this process is killed.
Invariants: leaving the context leaves no process behind, and neither does SIGKILL to this process; servers listen on the loopback
address only; a server that dies is started again at its address with its data; logs are in RUN/logs.
"""

from __future__ import annotations

import fcntl
import importlib.util
import logging
import os
import platform
import secrets
import shutil
import socket
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from orchestrator import guardian
from orchestrator.processes import HOST, Guardian, ServiceError, ServiceProcess, claim_port

if TYPE_CHECKING:
    from orchestrator.config.schema import ClusterConfig

REDIS_TIMEOUT_S = 60.0  # an append-only file of a long run is read back first
MLFLOW_TIMEOUT_S = 180.0  # 8 s on two idle cores with bytecode; the first start also creates the schema
RAY_STOP_TIMEOUT_S = 15.0
OBJECT_STORE_MB = 256

log = logging.getLogger(__name__)


class EmbeddedServices:
    """Context manager. Every method starts its server on the first call and is cheap afterwards.

    run_root: the run's directory (Redis data, logs). mlflow_root: SQLite file and artifacts, shared by all runs of a machine.
    cluster: sizes (`num_cpus`, `object_store_mb`) and, where set, the address of a Ray cluster to join instead.
    """

    def __init__(self, run_root: Path, mlflow_root: Path | None = None, cluster: ClusterConfig | None = None) -> None:
        self.run_root = Path(run_root).absolute()
        self.mlflow_root = Path(mlflow_root or self.run_root / "mlflow").absolute()
        self.logs = self.run_root / "logs"
        self._cluster = cluster
        self._cleanup = ExitStack()
        self._guardian: Guardian | None = None
        self._redis: tuple[ServiceProcess, str] | None = None
        self._mlflow: tuple[ServiceProcess, str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """End everything that was started, in the opposite order, each also when another one could not be ended. Safe to call twice."""
        self._cleanup.close()
        self._guardian = self._redis = self._mlflow = None

    def redis(self, port: int = 0) -> str:
        """Start Redis with an append-only file in RUN/redis and wait until it has read it. Returns its URL, password included."""
        if self._redis is None:
            data = self.run_root / "redis"
            self._make(data)
            port, password = claim_port(port), secrets.token_urlsafe(24)
            settings = data / "server.conf"
            settings.touch(mode=0o600)
            settings.write_text(_redis_settings(data, port, password))
            service = self._service("redis", [redis_binary(), str(settings)], lambda: _redis_answers(port, password), dict(os.environ))
            service.wait_ready(REDIS_TIMEOUT_S)
            self._redis = service, f"redis://:{password}@{HOST}:{port}/0"
        return self._redis[1]

    def mlflow(self, port: int = 0) -> str:
        """Begin to start MLflow on SQLite and return its address at once; `wait_for_mlflow` waits until it serves."""
        if self._mlflow is None:
            self._make(self.mlflow_root)
            port = claim_port(port)
            uri = f"http://{HOST}:{port}"
            environment = os.environ | {
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # its job consumers: 8 more processes, 2 GB
                "MLFLOW_DISABLE_TELEMETRY": "true",
                "OMP_NUM_THREADS": "1",
            }
            environment.pop("MLFLOW_TRACKING_URI", None)
            database = urllib.parse.quote(str(self.mlflow_root / "mlflow.db"))
            argv = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
            argv += ["--backend-store-uri", f"sqlite:///{database}", "--serve-artifacts"]
            argv += ["--artifacts-destination", str(self.mlflow_root / "artifacts")]
            self._mlflow = self._service("mlflow", argv, lambda: _mlflow_answers(uri), environment), uri
        return self._mlflow[1]

    def wait_for_mlflow(self, uri: str, timeout_s: float = MLFLOW_TIMEOUT_S) -> str:
        """Until the tracking server at `uri`, ours or another, answers. Returns `uri`. Raises ServiceError."""
        if self._mlflow is not None and uri == self._mlflow[1]:
            self._mlflow[0].wait_ready(timeout_s)
        elif uri.startswith(("http://", "https://")):
            deadline = time.monotonic() + min(timeout_s, 30.0)
            while not _mlflow_answers(uri):
                if time.monotonic() > deadline:
                    raise ServiceError(f"no MLflow server answers at {uri}: start it, correct cluster.mlflow_uri, or leave it empty")
                time.sleep(0.5)
        return uri

    def ray(self, num_cpus: int = 0) -> str:
        """Start Ray on this machine, or join the configured cluster. Returns its address. A Ray that this process runs already is kept."""
        import ray

        if ray.is_initialized():
            return ray.get_runtime_context().gcs_address
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        joined = self._cluster.ray_address if self._cluster else ""
        if joined:
            try:
                context = ray.init(address=joined, configure_logging=False, log_to_driver=False)
            except (ConnectionError, ValueError) as error:
                raise ServiceError(f"no Ray cluster answers at {joined}: correct cluster.ray_address or leave it empty") from error
            self._cleanup.callback(ray.shutdown)
            return context.address_info["gcs_address"]
        # One secret a run instead of a file in the home directory: only processes of this run may talk to its cluster.
        if "RAY_AUTH_MODE" not in os.environ:
            os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self._make(self.logs)
        self._guard()
        cpus = num_cpus or (self._cluster.num_cpus if self._cluster else 0) or os.cpu_count()
        store_bytes = (self._cluster.object_store_mb if self._cluster else OBJECT_STORE_MB) << 20
        before = set(guardian.descendants({os.getpid()}, guardian.table()))
        context = ray.init(
            address="local", num_cpus=cpus, object_store_memory=store_bytes, include_dashboard=False, log_to_driver=False,
            configure_logging=False,
        )  # fmt: skip
        daemons = {p: s for p, s in guardian.descendants({os.getpid()}, guardian.table()).items() if p not in before}
        self._cleanup.callback(_stop_ray, daemons)
        link = self.logs / "ray"
        link.unlink(missing_ok=True)
        link.symlink_to(Path(context.address_info["session_dir"]) / "logs")
        return context.address_info["gcs_address"]

    def _service(self, name: str, argv: list[str], answers, environment: dict[str, str]) -> ServiceProcess:  # type: ignore[no-untyped-def]
        self._make(self.logs)
        service = ServiceProcess(name, argv, self.logs / f"{name}.log", answers, environment, self._guard().watch)
        self._cleanup.callback(service.stop)
        return service

    def _guard(self) -> Guardian:
        if self._guardian is None:
            self._guardian = Guardian(self.logs / "guardian.log")
            self._cleanup.callback(self._guardian.dismiss)
        return self._guardian

    @staticmethod
    def _make(folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ServiceError(f"{folder} can't be created ({error.strerror}): choose a directory you may write to") from error
