"""The supervisor with real Redis and a small server: what dies comes back, what is killed leaves nothing, what was kept is found again."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from orchestrator import guardian
from orchestrator.service.home import Home, ServiceRecord
from orchestrator.service.members import api_answers
from orchestrator.service.settings import ServiceSettings

PROGRAM = """
import signal, sys
from functools import partial
from pathlib import Path
from orchestrator.service import members
from orchestrator.service.home import Home
from orchestrator.service.settings import ServiceSettings, read_settings
from orchestrator.service.supervisor import AlreadyRuns, Supervisor

def place(settings, last):
    import dataclasses
    whole = members.place(dataclasses.replace(settings, mlflow_uri="http://none", ray_address="none:1"), last)
    return dataclasses.replace(whole, own=("redis",))

def some(settings, record, home):
    redis, *rest = members.members(settings, record, home)
    port = record.url.rsplit(":", 1)[1]
    server = "import http.server as h; P = h.SimpleHTTPRequestHandler; P.do_GET = lambda s: (s.send_response(200), s.end_headers()); "
    server += f"print('serving', flush=True); h.HTTPServer(('127.0.0.1', {port}), P).serve_forever()"
    api = members.Member("api", (sys.executable, "-c", server), redis.environment, partial(members.api_answers, record.url), 120.0, 5.0)
    family = "import subprocess, time; subprocess.Popen(['sleep', '600'], start_new_session=True); time.sleep(600)"
    other = members.Member("ray", (sys.executable, "-c", family), redis.environment, lambda: True, 120.0, 0.0, family=True)
    return [redis, api, other]

members.check_given = lambda record: None
import logging
from orchestrator import processes
from orchestrator.service import supervisor as module
module.LOOK_S = processes.CHECK_S = 0.3  # what takes seconds in a service of months
logging.basicConfig(level=logging.INFO)
supervisor = Supervisor(Home(Path(sys.argv[1])), read_settings({"port": 0, "log_max_mb": 0.0001}, {}), members=some, place=place)
signal.signal(signal.SIGTERM, lambda *_: supervisor.stop())
try:
    sys.exit(supervisor.run())
except AlreadyRuns as error:
    sys.exit(str(error))
"""


def until(what: str, condition, limit_s: float = 120.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit_s} s: {what}"
        time.sleep(0.05)


@contextmanager
def supervisor(root: Path) -> Iterator[tuple[subprocess.Popen[str], Home]]:
    """A supervisor that is ready."""
    home = Home(root)
    with subprocess.Popen([sys.executable, "-c", PROGRAM, str(root)], stderr=subprocess.PIPE, text=True) as process:
        try:
            until(
                "ready",
                lambda: process.poll() is not None or (home.record().ready and home.record().pid == process.pid),
            )
            assert process.poll() is None, process.communicate()[1]
            yield process, home
        finally:
            process.kill()


def pids(home: Home) -> dict[str, int]:
    return {row.name: row.pid for row in home.processes().processes}


def connected(record: ServiceRecord) -> redis.Redis:
    return redis.Redis.from_url(record.redis_url, decode_responses=True)


def family_of(process: subprocess.Popen[str]) -> guardian.Processes:
    return guardian.descendants({process.pid}, guardian.table())


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[str], Home]]:
    with supervisor(tmp_path_factory.mktemp("state") / "service") as running:
        yield running


@pytest.mark.chaos
@pytest.mark.parametrize("name", ["redis", "api", "ray"])
def test_child_that_is_killed_is_started_again_at_its_address(served, name: str) -> None:
    process, home = served
    before = pids(home)[name]
    with connected(home.record()) as client:
        client.set("queued", name)
        children = guardian.descendants({before}, guardian.table())
        os.kill(before, signal.SIGKILL)

        def is_back() -> bool:
            rows = [row for row in home.processes().processes if row.name == name]
            return rows[0].pid != before and rows[0].restarts == 1 and (rows[0].ready or name == "ray")

        until(f"{name} serves again", is_back)
        assert client.get("queued") == name
    assert guardian.alive(children) == {}, "what the dead one had begun is gone, also outside its group"
    assert process.poll() is None


@pytest.mark.chaos
def test_child_that_hangs_is_ended_and_started_again(served) -> None:
    _, home = served
    before = pids(home)["api"]
    os.kill(before, signal.SIGSTOP)
    until("another one serves", lambda: pids(home)["api"] != before and api_answers(home.record().url))


def test_second_supervisor_is_refused_and_disturbs_nothing(served) -> None:
    process, home = served
    again = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(home.root)], stderr=subprocess.PIPE, text=True, check=False, timeout=300
    )
    assert f"already runs: {home.record().url} (process {process.pid})" in again.stderr
    assert home.record().alive


def test_log_that_has_grown_is_turned_over(served) -> None:
    _, home = served
    with (home.logs / "api.log").open("a") as log:
        log.write("x" * 1000)
    until("api.log.1", (home.logs / "api.log.1").exists)


def test_secrets_lie_in_files_of_their_owner_only(served) -> None:
    _, home = served
    for path in (home.record_file, home.redis / "server.conf", home.processes_file):
        assert path.stat().st_mode & 0o077 == 0, path
    assert home.root.stat().st_mode & 0o077 == 0


@pytest.mark.chaos
def test_state_and_addresses_are_kept_over_stops_and_kills_and_nothing_is_left(tmp_path: Path) -> None:
    with supervisor(tmp_path / "service") as (process, home):
        first = home.record()
        with connected(first) as client:
            client.set("kept", 1)
        family = family_of(process)
        assert len(family) >= 5, "Redis, the server, the other one and its child, the guardian"
        process.terminate()
        assert process.wait(120) == 0
        assert guardian.alive(family) == {}
        stopped = home.record()
        assert (stopped.pid, stopped.ready, stopped.error) == (0, False, "")
    with supervisor(tmp_path / "service") as (process, home):
        second = home.record()
        assert (second.redis_url, second.url) == (first.redis_url, first.url)
        with connected(second) as client:
            assert client.get("kept") == "1"
            client.set("kept", 2)
        family = family_of(process)
        process.kill()
        process.wait()
        # at once: it waits until the guardian has ended the rest, then has the same data
        with supervisor(tmp_path / "service") as (_, again), connected(again.record()) as client:
            assert guardian.alive(family) == {}
            assert client.get("kept") == "2"


@pytest.mark.chaos
def test_start_ends_what_a_killed_supervisor_with_a_killed_guardian_left(tmp_path: Path) -> None:
    with supervisor(tmp_path / "service") as (process, home):
        family = family_of(process)
        keeper = next(pid for pid in family if "guardian.py" in guardian.command(pid))
        os.kill(keeper, signal.SIGKILL)
        process.kill()
        process.wait()
        assert guardian.alive(family)
    with supervisor(tmp_path / "service") as (_, home):
        assert guardian.alive(family) == {}
        assert home.record().ready


def test_settings_file_of_the_service_reads_back(tmp_path: Path) -> None:
    settings = dataclasses.replace(ServiceSettings(), allowed_roots=("/a",))
    assert ServiceSettings(**json.loads(json.dumps(dataclasses.asdict(settings)))).loopback
