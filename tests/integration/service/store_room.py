"""A Valkey server and experiments for the tests of the store."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from orchestrator.embedded import EmbeddedServices
from orchestrator.service.messages import Bundle, Demand, Experiment, Priority, State
from orchestrator.service.store import Store

_prefixes = itertools.count()


class StoreRoom:
    """One server; every store of `fresh` has a prefix of its own and so starts empty."""

    def __init__(self, folder: Path) -> None:
        self.services = EmbeddedServices(folder)
        self.url = self.services.redis()

    @property
    def server_pid(self) -> int:
        assert self.services._redis is not None
        return self.services._redis[0].pid

    def fresh(self, **options: Any) -> Store:
        return Store.from_url(self.url, f"test{next(_prefixes)}:", **options)

    def close(self) -> None:
        self.services.stop()


def experiment(number: int = 0, **changes: Any) -> Experiment:
    values: dict[str, Any] = {
        "id": f"demo-{number:06x}",
        "name": "demo",
        "user": "ann",
        "state": State.QUEUED,
        "priority": Priority.NORMAL,
        "overrides": ("experiment=demo", f"run.seed={number}"),
        "demand": Demand((Bundle(cpus=2, gpus=1),)),
        "submitted_at": 0.0,
        "run_dir": f"/runs/demo-{number:06x}",
        "config_sha256": "",
    }
    return Experiment(**values | changes)


def submitted(store: Store, number: int = 0, **changes: Any) -> Experiment:
    return store.submit(experiment(number, **changes), f"seed: {number}\n")[0]


@contextmanager
def losing_replies(url: str, lose: set[int]) -> Iterator[str]:
    """A way to the server on which the answers to the commands number `lose` (from 0; EVALSHA only) are lost: the server has done the work,
    and the connection breaks."""
    host, port = url.rsplit("@", 1)[1].split("/", maxsplit=1)[0].split(":")
    listener = socket.create_server(("127.0.0.1", 0))
    counter = itertools.count()

    def serve(client: socket.socket) -> None:
        losing = threading.Event()

        def answer(server: socket.socket) -> None:
            with suppress(OSError):  # either side has closed
                while reply := server.recv(1 << 20):
                    if losing.is_set():
                        client.shutdown(socket.SHUT_RDWR)
                        return
                    client.sendall(reply)

        with suppress(OSError), client, socket.create_connection((host, int(port))) as server:
            threading.Thread(target=answer, args=(server,), daemon=True).start()
            while request := client.recv(1 << 20):  # a long script comes in several parts
                if b"EVALSHA" in request and next(counter) in lose:
                    losing.set()
                server.sendall(request)

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:  # closed: the test is over
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield url.replace(f"{host}:{port}", f"127.0.0.1:{listener.getsockname()[1]}")
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
