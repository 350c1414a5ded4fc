"""Reward `remote` with the service that the documentation shows, in a process of its own."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from rewards import RewardTerm, Sample
from rewards.endpoints.runner import EndpointRunner
from rewards.registry import resolve
from rewards.sample_wire import encode_sample
from rewards.sandbox_wire import Unit

pytestmark = pytest.mark.slow

PAGE = Path(__file__).resolve().parents[2] / "docs" / "rewards" / "endpoints.md"
START_S = 60.0


class Service:
    """The documented service under uvicorn; `kill` and `start` as often as a test likes, on one port."""

    def __init__(self, folder: Path) -> None:
        (code,) = [
            block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "FastAPI" in block
        ]
        (folder / "contains_service.py").write_text(code)
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/score"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "uvicorn",
            "contains_service:app",
            "--port",
            str(self.port),
            "--log-level",
            "error",
        ]
        self.process = subprocess.Popen(command, cwd=self.folder)
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            try:
                httpx.get(self.url, timeout=1.0)
                return
            except httpx.TransportError:
                time.sleep(0.1)
        pytest.fail(f"the service did not start within {START_S:.0f} s")

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    service.start()
    yield service
    service.kill()


def line(reply: str, answer: str = "violin") -> bytes:
    question = {"id": "q", "prompt": "Which instrument?", "answer": answer, "audio": ()}
    return encode_sample(Sample("q/0", question, reply, "", reply, False, True, 3, 0))


def test_the_documented_service_scores_dies_and_comes_back(service: Service) -> None:
    parameters = {
        "url": service.url, "service": "contains 1.0", "attempts": 1, "breaker_failures": 1, "breaker_pause_s": 0.5,
    }  # fmt: skip
    lines = [line("A violin."), line("A flute."), line("A violin.", answer="")]
    units = [Unit(0, 0), Unit(1, 0), Unit(2, 0)]
    with EndpointRunner([resolve(RewardTerm("remote", 1.0, "any", parameters))]) as runner:
        alive = runner.score(lines, units)
        assert [outcome.score for outcome in alive] == [1.0, 0.0, None]
        assert alive[0].parts == {"characters": 9.0}
        assert alive[2].reason == "remote reports an error: the question has no reference answer"
        service.kill()
        assert all("can't be reached" in outcome.reason for outcome in runner.score(lines, units))
        assert all("is not asked" in outcome.reason for outcome in runner.score(lines, units))
        service.start()
        time.sleep(0.6)  # the breaker's pause, which a quick server start does not fill
        again = runner.score(lines, units)
        assert [outcome.score for outcome in again] == [1.0, 0.0, None], [outcome.reason for outcome in again]
