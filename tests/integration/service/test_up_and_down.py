"""`mgrd up` as a person calls it, with Redis, MLflow, Ray, API and scheduler: ready, every child killed and back, down, nothing left."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis_room import RedisRoom

from orchestrator import guardian
from orchestrator.service.home import Home
from orchestrator.service.messages import Demand, Experiment, Priority, State
from orchestrator.service.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.chaos]
CHILDREN = ("redis", "mlflow", "ray", "api", "scheduler-0")
LIMIT_S = 300.0  # of a busy machine


class Shell:
    """Calls `mgrd` with a state folder of its own."""

    def __init__(self, root: Path) -> None:
        self.environment = os.environ | {"MGRD_STATE": str(root / "state"), "MGRD_CACHE": str(root / "cache")}
        self.home = Home(root / "state" / "service")
        self.told: list[str] = []

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        with self.begin(*arguments) as process:
            out, err = process.communicate(timeout=2 * LIMIT_S)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "orchestrator.cli", *arguments]
        return subprocess.Popen(argv, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(what: str, condition) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {LIMIT_S} s: {what}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    shell = Shell(tmp_path_factory.mktemp("up"))
    up = ("up", "--port", "0", "--set", "object_store_mb=80", "--set", "ray_cpus=1")
    try:
        with shell.begin(*up) as one, shell.begin(*up) as other:
            said = [process.communicate(timeout=2 * LIMIT_S) for process in (one, other)]
        assert (one.returncode, other.returncode) == (0, 0), said
        shell.told = sorted((out for out, _ in said), key=lambda out: "already runs" in out)
        yield shell
    finally:
        record = shell.home.record()
        if record.alive:
            os.kill(record.pid, signal.SIGKILL)


def test_up_says_where_everything_is_and_leaves_the_terminal(shell: Shell) -> None:
    record = shell.home.record()
    for shown in ("ready", record.url, record.mlflow_uri, "no tokens: loopback only", str(shell.home.logs)):
        assert shown in shell.told[0]
    assert os.getsid(record.pid) == record.pid, "a session of its own: closing the terminal does not end it"
    assert urllib.request.urlopen(f"{record.url}/healthz").status == 200


def test_of_two_that_start_it_at_once_one_does_and_the_other_says_that_it_runs(shell: Shell) -> None:
    record = shell.home.record()
    assert "already runs" not in shell.told[0]
    assert f"already runs: {record.url} (process {record.pid})" in shell.told[1]


def test_second_up_says_that_it_runs(shell: Shell) -> None:
    record = shell.home.record()
    again = shell("up", "--port", "0")
    assert (again.returncode, f"already runs: {record.url}" in again.stdout) == (0, True)
    assert shell.home.record() == record


def test_status_names_every_process_without_secrets(shell: Shell) -> None:
    record = shell.home.record()
    state = json.loads(shell("status", "--json").stdout)
    assert {row["name"] for row in state["processes"]} == set(CHILDREN)
    assert state["access"] == "no tokens: loopback only"
    assert record.ray_token not in json.dumps(state)
    assert record.redis_url.split("@")[0] not in json.dumps(state)


def test_every_child_that_is_killed_comes_back_at_its_address_and_down_leaves_nothing(shell: Shell) -> None:
    before, record = {row.name: row for row in shell.home.processes().processes}, shell.home.record()
    families = {name: guardian.descendants({row.pid}, guardian.table()) for name, row in before.items()}
    for row in before.values():
        os.kill(row.pid, signal.SIGKILL)

    def all_back() -> bool:
        rows = {row.name: row for row in shell.home.processes().processes}
        return all(rows[name].ready and rows[name].pid != before[name].pid for name in CHILDREN)

    until("all of them serve again", all_back)
    assert {name: left for name, family in families.items() if (left := guardian.alive(family))} == {}
    assert shell.home.record() == record, "the addresses have not changed"

    waiting = Experiment(
        "later-1", "later", "ann", State.QUEUED, Priority.NORMAL, (), Demand(), 1.0, "/none", "", not_before=4e9
    )
    with contextlib.closing(Store.from_url(record.redis_url)) as store:
        store.submit(waiting, "run: {}\n")
    everything = guardian.descendants({record.pid}, guardian.table())
    stopped = shell("down")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert guardian.alive(everything) == {}
    assert shell("status").returncode == 3
    kept = RedisRoom(shell.home.redis)
    try:
        with contextlib.closing(Store.from_url(kept.url)) as store:
            assert store.get("later-1").state is State.QUEUED
    finally:
        kept.kill()
