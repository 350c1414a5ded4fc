"""A real HTTP server in a thread that answers as a test tells it to, and remembers what it was asked.

Neighbours: tests of endpoint rewards. Invariants: it listens on a free port of this machine; `stop` frees the port, and `start`
takes the same one again, so that a test can let an endpoint die and come back.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Request:
    """at: monotonic seconds when it had been read; number: 0 for the first one the server ever got."""

    number: int
    at: float
    path: str
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True)
class Answer:
    """body: bytes as they are, else JSON; delay_s: before anything is sent; drop: the connection is cut instead; drip_s: between
    the bytes of the body."""

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    drop: bool = False
    drip_s: float = 0.0


Script = Callable[[Request], Answer]


class EndpointServer:
    """Use as a context manager. `script` may be changed at any time."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[Request] = []
        self.at_once = 0
        self.most_at_once = 0
        self.port = 0
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        server = ThreadingHTTPServer(("127.0.0.1", self.port), self._handler())
        server.daemon_threads = True
        self.port = server.server_address[1]
        self._server = server
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def __enter__(self) -> EndpointServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 5

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with owner._lock:
                    request = Request(len(owner.requests), time.monotonic(), self.path, dict(self.headers), body)
                    owner.requests.append(request)
                    owner.at_once += 1
                    owner.most_at_once = max(owner.most_at_once, owner.at_once)
                try:
                    with contextlib.suppress(ConnectionError):  # the client has hung up, as some tests want
                        self._answer(owner.script(request))
                finally:
                    with owner._lock:
                        owner.at_once -= 1

            def _answer(self, answer: Answer) -> None:
                time.sleep(answer.delay_s)
                if answer.drop:
                    self.connection.close()
                    return
                data = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
                self.send_response(answer.status)
                for name, value in {"Content-Length": str(len(data)), **answer.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if not answer.drip_s:
                    self.wfile.write(data)
                    return
                for byte in data:
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                    time.sleep(answer.drip_s)

            def log_message(self, *_: object) -> None:
                """Keeps the test's output clean."""

        return Handler


def completion(content: str | None, *, tokens_in: int = 100, tokens_out: int = 20, finish: str = "stop") -> Answer:
    """A chat completion."""
    return Answer(
        {
            "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish}],
            "usage": {"prompt_tokens": tokens_in, "completion_tokens": tokens_out},
        }
    )


def results(*entries: Any, **more: Any) -> Answer:
    """The answer of a remote reward."""
    return Answer({"version": 1, "results": list(entries)} | more)
