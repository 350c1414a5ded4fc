"""`mgrd rewards serve`: the reward service over HTTP, for whoever is not inside a run.

Neighbours: `rewards.http` is the app, `rewards_cli` hangs this command in. Invariants: it listens on the loopback address unless
told otherwise, and then only with a token; Ctrl-C or SIGTERM ends it with all its processes.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from orchestrator.processes import claim_port
from orchestrator.rewards_store import VARIABLE, open_store
from rewards import RewardError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
console = Console()


def serve(
    *,
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8400,
    host: Annotated[
        str, typer.Option(help="Address; another than this machine's own needs --token-secret.")
    ] = "127.0.0.1",
    workers: Annotated[int, typer.Option(min=1, help="Threads, each with scoring processes of its own.")] = 2,
    timeout_s: Annotated[
        float, typer.Option("--timeout", help="Wall limit of one sample in one function, seconds.")
    ] = 10.0,
    memory_mb: Annotated[int, typer.Option("--memory-mb", help="Memory limit of a scoring process.")] = 2048,
    max_samples: Annotated[int, typer.Option(help="Of one request.")] = 4096,
    clips: Annotated[Path | None, typer.Option(help="Folder below which requests may name recordings.")] = None,
    token_secret: Annotated[str, typer.Option(help="Name of the secret that callers must send as bearer token.")] = "",
    redis_url: Annotated[
        str, typer.Option("--redis-url", envvar=VARIABLE, help="Registry; default: this machine's.")
    ] = "",
) -> None:
    """Serve scores: POST /v1/score, GET /v1/rewards; the page at /docs describes it.

    [bold]mgrd rewards serve --port 8400[/bold]

    [bold]curl localhost:8400/v1/score -H 'content-type: application/json' -d '{"terms": ["answer"], "samples": [{"question":
    {"prompt": "What is heard?", "answer": "dog", "answer_kind": "choice", "choices": ["dog", "owl"]}, "response": "A"}]}'[/bold]
    """
    import uvicorn

    from orchestrator.rewards_cli import refusing
    from rewards import HttpSettings, ScoringPool, create_app

    with refusing():
        if host not in LOOPBACK and not token_secret:
            raise RewardError(f"{host} can be reached from outside: name a secret with --token-secret")
        settings = HttpSettings(
            timeout_s=timeout_s, memory_mb=memory_mb, max_samples=max_samples, clips=clips, token_secret=token_secret
        )
        port = claim_port(port)
        app = create_app(ScoringPool(workers), open_store=partial(open_store, redis_url), settings=settings)
        console.print(f"rewards on http://{host}:{port} (page: /docs; Ctrl-C stops it)", highlight=False)
        uvicorn.run(app, host=host, port=port, log_level="warning")
