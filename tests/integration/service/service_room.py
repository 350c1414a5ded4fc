"""What experiments need to run: Redis, MLflow, a Ray head with its dashboard, schedulers as processes; and micro experiments."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from orchestrator.config.compose import compose_config, to_yaml
from orchestrator.demand import demand_of
from orchestrator.embedded import EmbeddedServices
from orchestrator.processes import ServiceProcess, claim_port
from orchestrator.service.launcher import RayLauncher
from orchestrator.service.messages import Experiment, Priority, State
from orchestrator.service.ray_api import RayApi
from orchestrator.service.ray_head import ray_answers, ray_environment, ray_head_command
from orchestrator.service.settings import ServiceSettings
from orchestrator.service.states import ACTIVE
from orchestrator.service.store import Store

READY_S = 240.0
LIMIT_S = 400.0  # of anything that is waited for; a loaded machine is slow
UPDATES = 10  # a third of a second each: long enough to be stopped half-way
SMALLEST = (
    *("rollout.start_timeout_s=1500", "actor.start_timeout_s=1500"),
    *("pipeline.sft.steps=2", "pipeline.sft.questions=8", "pipeline.sft.batch=4", "run.checkpoint_every=10"),
    *("pipeline.select.questions=4", "pipeline.select.samples=2", "pipeline.select.keep_max=2"),
    *("pipeline.select.min_pool=2", f"pipeline.reinforce.updates={UPDATES}", "pipeline.reinforce.questions=2"),
    *("pipeline.reinforce.samples=2", "pipeline.evaluate.questions=2", "pipeline.evaluate.samples=1"),
)
VARIES = ("seconds/", "publish/seconds", "publish/gb_per_s", "tokens_per_second", "generated_tokens_per_second")


class ServiceRoom:
    """Everything in `root`; `close` ends all of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.token = secrets.token_hex(16)
        self.mark = f"MGRD_TEST_ROOM={root}"
        self._exit = contextlib.ExitStack()
        self.services = self._exit.enter_context(EmbeddedServices(root, root / "mlflow"))
        self.redis_url = self.services.redis()
        self.mlflow_uri = self.services.mlflow()
        self.dashboard, self.ray = self._start_ray()
        self.services.wait_for_mlflow(self.mlflow_uri)
        self.ray.wait_ready(READY_S)
        self.store = Store.from_url(self.redis_url)
        self.api = self._exit.enter_context(RayApi(self.dashboard, self.token))
        self.launcher = RayLauncher(self.api, {}, root / "code")
        self._exit.callback(self.store.close)

    def close(self) -> None:
        self._exit.close()

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MGRD_CHAOS"))}
        name, _, value = self.mark.partition("=")
        return kept | ray_environment(self.token) | {name: value, "MGRD_STATE": str(self.root), "OMP_NUM_THREADS": "1"}

    def _start_ray(self) -> tuple[str, ServiceProcess]:
        port, dashboard_port = claim_port(), claim_port()
        settings = ServiceSettings(ray_cpus=2, object_store_mb=128)
        argv = ray_head_command(port=port, dashboard_port=dashboard_port, settings=settings, state=self.root)
        dashboard = f"http://127.0.0.1:{dashboard_port}"
        server = ServiceProcess(
            "ray",
            argv,
            self.root / "logs" / "ray-head.log",
            lambda: ray_answers(dashboard, self.token),
            environment=self.environment(),
            watch=lambda pid: None,
            family=True,
        )
        self._exit.callback(server.stop)
        return dashboard, server

    @contextlib.contextmanager
    def scheduler(self, name: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        """A scheduler's own process."""
        argv = [sys.executable, "-m", "orchestrator.service.scheduler", "--name", name, "--redis-url", self.redis_url]
        argv += ["--ray-dashboard", self.dashboard, "--mlflow-uri", self.mlflow_uri, *options]
        with (self.root / "logs" / f"{name}.log").open("ab") as out:
            process = subprocess.Popen(argv, env=self.environment(), stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)

    def submit(self, name: str, data: Path, *overrides: str) -> Experiment:
        """A micro experiment on a data set in `data`."""
        given = ("experiment=micro", *SMALLEST, *overrides)
        config = compose_config(
            [
                *given,
                *(f"data.train={data / 'train.jsonl'}", f"data.held_out={data / 'held_out.jsonl'}"),
                *(f"data.feature_dir={self.root / 'features'}", "run.min_free_memory_gib=1.0"),
            ]
        )
        experiment = Experiment(
            id=name,
            name=name,
            user="alice",
            state=State.QUEUED,
            priority=Priority.NORMAL,
            overrides=given,
            demand=demand_of(config),
            submitted_at=0.0,
            run_dir=str(self.root / "runs" / name),
            config_sha256="",
            tags={"team": "ears"},
        )
        return self.store.submit(experiment, to_yaml(config))[0]

    def until(self, id: str, what: str, check: Callable[[Experiment], bool], limit_s: float = LIMIT_S) -> Experiment:
        """The experiment as soon as `check` holds for it. Fails at once when it ends otherwise."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            experiment = self.store.get(id)
            if check(experiment):
                return experiment
            if experiment.state in (State.FAILED, State.SUCCEEDED):
                break
            time.sleep(0.1)
        raise AssertionError(f"{id} never was {what}: {self.store.get(id)}\n{self.said(id)}")

    def until_state(self, id: str, state: State, limit_s: float = LIMIT_S) -> Experiment:
        return self.until(id, state, lambda experiment: experiment.state is state, limit_s)

    def until_update(self, id: str, update: int) -> Experiment:
        return self.until(id, f"at update {update}", lambda e: e.state in ACTIVE and e.progress.update >= update)

    def said(self, id: str) -> str:
        """The end of the driver's log."""
        path = self.root / "runs" / id / "logs" / "driver.log"
        return "\n".join(path.read_text().splitlines()[-30:]) if path.exists() else "(no driver's log)"

    def driver(self, id: str) -> psutil.Process:
        return next(p for p in self.processes() if f"orchestrator.service.job {id} " in command(p))

    def actors(self, kind: str) -> list[psutil.Process]:
        """Actors of one class, as their processes call themselves."""
        return [p for p in self.processes() if command(p).startswith(f"ray::{kind}")]

    def mlflow_processes(self) -> list[psutil.Process]:
        """The tracking server and its workers."""
        port = self.mlflow_uri.rpartition(":")[2]
        everyone = psutil.Process().children(recursive=True)
        servers = [p for p in everyone if "mlflow" in command(p) and f"--port {port}" in command(p)]
        return list({p.pid: p for s in servers for p in (s, *s.children(recursive=True))}.values())

    def processes(self) -> list[psutil.Process]:
        """All that the Ray head started, engines' cores and scoring processes as well."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [p for p in psutil.Process(self.ray.pid).children(recursive=True) if alive(p)]
        return []

    def working(self) -> list[str]:
        """Command lines of everything that belongs to some experiment: drivers, actors, engine cores, scoring processes."""
        marks = ("orchestrator.service.job", "ray::Rollout", "ray::Trainer", "ray::Reward", "VLLM", "rewards.sandbox")
        everyone = [p for p in psutil.process_iter() if p.pid != os.getpid() and alive(p)]
        return [
            f"{p.pid} {command(p)}" for p in everyone if any(mark in command(p) for mark in marks) and self._is_ours(p)
        ]

    def _is_ours(self, process: psutil.Process) -> bool:
        """Scoring processes get an environment of their own; they name their parent, and those that lost it are ours, too."""
        name, _, value = self.mark.partition("=")
        with contextlib.suppress(psutil.Error):
            if "rewards.sandbox" in command(process):
                return process.ppid() == 1 or process.parent() in self.processes()
            return process.environ().get(name) == value
        return False


def command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def updates(experiment: Experiment) -> list[dict[str, Any]]:
    """What a run recorded of its policy updates, without what the clock decides."""
    lines = (Path(experiment.run_dir) / "updates.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    for record in records:
        metrics = record["metrics"].items()
        record["metrics"] = {k: v for k, v in metrics if not k.startswith(VARIES) and "/seconds_p" not in k}
    return records


def eventually(check: Callable[[], bool], limit_s: float) -> bool:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if check():
            return True
        time.sleep(0.1)
    return check()


__all__ = ["ServiceRoom", "alive", "command", "eventually", "updates"]
