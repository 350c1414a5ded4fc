"""Processes of ranks are ended by name: stopped ones too, and never another process with the same number."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from actor import faults, phases
from actor.faults import Fault
from actor.ranks import RankProcess, end_here, state


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def named(process: subprocess.Popen[bytes]) -> RankProcess:
    return RankProcess(process.pid, socket.gethostname(), "here", psutil.Process(process.pid).create_time())


def test_a_stopped_process_is_seen_as_such_and_ended(sleeper: subprocess.Popen[bytes]) -> None:
    rank = named(sleeper)
    os.kill(sleeper.pid, signal.SIGSTOP)
    while state(rank) != psutil.STATUS_STOPPED:
        pass
    assert end_here([rank], 20.0) == []
    assert state(rank) == ""
    assert sleeper.wait(20) == -signal.SIGKILL


def test_a_later_process_with_the_number_of_a_dead_one_is_left_alone(sleeper: subprocess.Popen[bytes]) -> None:
    before = dataclasses.replace(named(sleeper), born=1.0)
    assert state(before) == ""
    assert end_here([before], 0.1) == []
    assert sleeper.poll() is None


STRUCK = """
import sys
from pathlib import Path
from actor import phases
phases.begin(3, Path(sys.argv[1]))
for number in (1, 2, 3):
    phases.enter("forward", f"{number}/3")
    phases.enter("backward", f"{number}/3")
"""


def test_a_planned_fault_strikes_once_and_the_phase_outlives_the_rank(tmp_path: Path) -> None:
    faults.plan(tmp_path / "faults", [Fault(rank=3, phase="backward", passing=2), Fault(rank=0, phase="forward")])
    record = tmp_path / "rank.phase"
    environment = os.environ | {faults.VARIABLE: str(tmp_path / "faults")}
    code = subprocess.run([sys.executable, "-c", STRUCK, str(record)], env=environment, check=False).returncode
    assert code == -signal.SIGKILL
    assert phases.recorded(record) == "backward 2/3"
    assert faults.left(tmp_path / "faults") == ["001.json"]
    code = subprocess.run([sys.executable, "-c", STRUCK, str(record)], env=environment, check=False).returncode
    assert code == 0  # the next fault is another rank's
    assert phases.recorded(record) == "backward 3/3"
