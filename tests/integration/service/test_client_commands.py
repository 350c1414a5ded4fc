"""The commands of the service as users type them, against the real API: tables, JSON, exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from client_desk import Desk
from rich.table import Table
from typer.testing import CliRunner, Result

from orchestrator import guardian
from orchestrator.cli import app
from orchestrator.service.home import Home, ServiceRecord
from orchestrator.service.messages import Experiment, State
from orchestrator.service_cli import ps

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    desk = Desk(tmp_path_factory.mktemp("commands"))
    yield desk
    desk.close()


@pytest.fixture(autouse=True)
def shell(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MGRD_STATE", str(tmp_path))
    monkeypatch.setenv("MGRD_URL", desk.api.url)


def mgrd(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    return result


def as_json(*arguments: str, code: int = 0) -> Any:
    return json.loads(mgrd(*arguments, "--json", code=code).stdout)


def test_submit_watch_cancel_resume_clone_compare(desk: Desk) -> None:
    said = mgrd(
        "submit", "experiment=demo", "run.seed=7", "--name", "walk", "--tag", "team=audio", "--priority", "high"
    )
    id = said.stdout.split()[0]
    assert id.startswith("walk-") and "is queued" in said.stdout
    assert id in mgrd("ps", "--tag", "team=audio").stdout
    assert [row["id"] for row in as_json("ps", "--state", "queued", "--user", "@me")["experiments"]] == [id]
    assert "is cancelled" in mgrd("cancel", "walk").stdout
    assert f"mgrd resume {id}" in mgrd("show", "@last").stdout
    assert as_json("resume", id[-6:], "actor.actor_optim.lr=5e-5")["state"] == "queued"
    twin = as_json("clone", id, "run.seed=8", "--name", "twin")["id"]
    said = mgrd("compare", id, twin)
    assert "run.seed" in said.stdout and "neither has metrics yet" in said.stdout
    assert {"key": "run.seed", "a": "7", "b": "8"} in as_json("compare", "walk", "twin")["config"]


def test_ps_watches_until_interrupted_and_tells_each_change_once(desk: Desk) -> None:
    desk.submit("watched")
    command = [sys.executable, "-m", "orchestrator.cli", "ps", "-w", "--json", "--sweep", "watched-sweep"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ, text=True) as shell:
        assert shell.stdout is not None and shell.stderr is not None
        assert json.loads(shell.stdout.readline()) == {"experiments": []}
        child = desk.client.submit("demo", name="watched", parent="watched-sweep")
        assert [one["state"] for one in json.loads(shell.stdout.readline())["experiments"]] == ["queued"]
        child.cancel()
        assert [one["state"] for one in json.loads(shell.stdout.readline())["experiments"]] == ["cancelled"]
        shell.send_signal(signal.SIGINT)
        assert (shell.wait(20), shell.stdout.read(), shell.stderr.read()) == (0, "", "")


def test_watched_table_stands_while_the_service_is_away(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    run = desk.submit("stands")
    drawn: list[Table] = []
    draw = ps.table

    def drawing(found: list[Experiment]) -> Table:
        assert run.id in [one.id for one in found]
        drawn.append(draw(found))
        if len(drawn) == 3:
            raise KeyboardInterrupt
        (desk.api.stop if len(drawn) == 1 else desk.api.start)()
        return drawn[-1]

    monkeypatch.setattr(ps, "table", drawing)
    monkeypatch.setattr(ps, "ROUND_S", 0.01)
    monkeypatch.setattr("orchestrator.service.transport.ATTEMPTS", 1)
    assert run.id in mgrd("ps", "-w", "--state", "queued").stdout
    assert "does not answer" in str(drawn[1].caption)


def test_show_tells_stages_curves_failure_and_next_steps(desk: Desk) -> None:
    run = desk.submit("shown")
    attempt = desk.room.start(run.id).attempt
    for number in range(1, 21):
        desk.room.update(run.id, number, total=60, attempt=attempt)
    text = mgrd("show", run.id).stdout
    assert "reinforce_1 3/5, update 20/60" in text and "▶" in text and "reward/mean" in text
    assert any(bar in text for bar in "▂▃▅▆") and f"mgrd pause {run.id}" in text
    desk.room.store.finish(run.id, attempt, State.FAILED, reason="RunFailed: no space left on device")
    text = mgrd("show", run.id).stdout
    assert "no space left on device" in text and f"mgrd logs {run.id} --tail 100" in text
    assert len(as_json("show", run.id)["updates"]) == 20


def test_logs_and_events_are_lines(desk: Desk) -> None:
    run = desk.submit("logged")
    desk.room.log(run.id, "rollout-0", "engine up\nupdate 1\n")
    assert mgrd("logs", run.id, "--component", "rollout/0", "--tail", "1").stdout == "update 1\n"
    assert as_json("logs", run.id, "--components") == {"components": ["rollout/0"]}
    refused = mgrd("logs", run.id, "-c", "rollout/7", code=2)
    assert "rollout/7" in refused.stderr and "hint: there are rollout/0" in refused.stderr
    desk.room.finish(run.id, State.SUCCEEDED, updates=1)
    kinds = [json.loads(line)["kind"] for line in mgrd("events", run.id, "-f", "--json").stdout.splitlines()]
    assert kinds[0] == "submitted" and kinds.count("update") == 1 and kinds[-1] == "state"
    assert "running → succeeded" in mgrd("events", run.id).stdout


@pytest.mark.parametrize(
    ("state", "code"), [(State.SUCCEEDED, 0), (State.FAILED, 1), (State.CANCELLED, 1), (State.PAUSED, 3)]
)
def test_wait_ends_with_a_code_for_scripts(desk: Desk, state: State, code: int) -> None:
    run = desk.submit(f"waits-{state}")
    if state is State.CANCELLED:
        run.cancel()
    else:
        desk.room.store.finish(run.id, desk.room.start(run.id).attempt, state)
    assert as_json("wait", run.id, code=code)["experiments"][0]["state"] == state


def test_wait_gives_up_with_124_and_the_worst_outcome_counts(desk: Desk) -> None:
    done, open_ = desk.submit("done"), desk.submit("open")
    desk.room.store.finish(done.id, desk.room.start(done.id).attempt, State.SUCCEEDED)
    assert "still queued" in mgrd("wait", done.id, open_.id, "--timeout", "0.2", code=124).stderr


def test_submit_follows_to_the_end(desk: Desk) -> None:
    def job() -> None:
        while not (found := [run for run in desk.client.list(limit=5) if run.experiment.name == "followed"]):
            pass
        desk.prepared(found[0])
        desk.room.finish(found[0].id, State.FAILED, reason="no luck")

    thread = threading.Thread(target=job)
    thread.start()
    said = mgrd("submit", "experiment=demo", "--name", "followed", "--follow", code=1)
    thread.join(20)
    assert "running → failed: no luck" in said.stdout


def test_sweeps_by_grid_and_by_list(desk: Desk, tmp_path: Path) -> None:
    made = as_json("sweep", "experiment=demo", "run.seed=1,2", "actor.actor_optim.lr=1e-5,5e-5", "--name", "grid")
    assert len(made["experiments"]) == 4
    assert len(as_json("ps", "--sweep", made["parent"])["experiments"]) == 4
    (tmp_path / "points.txt").write_text("run.seed=4  # four\n\nrun.seed=5 'run.name=x'\n")
    assert "2 experiments" in mgrd("sweep", "experiment=demo", "--list", "points.txt").stdout
    assert "nothing is swept" in mgrd("sweep", "experiment=demo", code=2).stderr


def test_what_is_refused_exits_2_with_a_hint(desk: Desk, tmp_path: Path) -> None:
    said = mgrd("submit", "experiment=demo", "actor.optim.lr=1e-6", code=2).stderr
    assert "refused:" in said and "actor.actor_optim.lr" in said
    assert "mgrd ps --all" in mgrd("show", "nobody-000000", code=2).stderr
    assert "low, normal, high" in mgrd("submit", "experiment=demo", "--priority", "urgent", code=2).stderr
    assert "holds no config.yaml" in mgrd("resume", str(tmp_path), code=2).stderr


def test_without_a_service_commands_exit_4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MGRD_URL", "http://127.0.0.1:9")
    assert "does not answer" in mgrd("ps", code=4).stderr
    monkeypatch.delenv("MGRD_URL")
    assert "start one with `mgrd up`" in mgrd("ps", code=4).stderr


def test_rewards_are_published_to_the_service_that_runs_here(desk: Desk, tmp_path: Path) -> None:
    row = guardian.look(os.getpid())
    assert row is not None
    home = Home.default()
    home.make()
    home.write_record(ServiceRecord(redis_url=desk.redis.url, pid=os.getpid(), pid_start=row[1]))
    assert as_json("rewards", "list")["published"] == []
    assert not (tmp_path / "rewards").exists()  # no registry of the machine's own was started


def test_ctrl_c_leaves_a_watched_command_cleanly(desk: Desk) -> None:
    run = desk.submit("left")
    command = [sys.executable, "-m", "orchestrator.cli", "events", run.id, "-f", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ, text=True) as shell:
        assert shell.stdout is not None and shell.stderr is not None
        assert json.loads(shell.stdout.readline())["kind"] == "submitted"
        shell.send_signal(signal.SIGINT)
        assert (shell.wait(20), shell.stderr.read()) == (0, "")


def test_every_command_teaches_by_an_example() -> None:
    for name in [
        "submit",
        "ps",
        "show",
        "logs",
        "cancel",
        "pause",
        "resume",
        "clone",
        "compare",
        "sweep",
        "wait",
        "events",
        "audit",
    ]:
        assert f"mgrd {name} " in mgrd(name, "--help").stdout.replace("\n", " "), name


def test_tokens_are_made_listed_and_revoked(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Last: from the first token on every request needs one."""
    assert "must have the scope admin" in mgrd("token", "create", "laptop", code=2).stderr
    made = as_json("token", "create", "root", "--scope", "admin", "--expires", "0")
    assert "hint: set MGRD_TOKEN" in mgrd("ps", code=2).stderr
    monkeypatch.setenv("MGRD_TOKEN", made["secret"])
    said = mgrd("token", "create", "laptop", "--user", "ben", "--expires", "30d").stdout
    assert f"MGRD_URL={desk.api.url} MGRD_TOKEN=mgrd_" in said
    laptop = next(token for token in as_json("token", "list")["tokens"] if token["user"] == "ben")
    assert "is revoked" in mgrd("token", "revoke", laptop["id"]).stdout
    assert "revoked" in mgrd("token", "list").stdout
    assert "revoke token" in mgrd("audit", "--limit", "5").stdout
