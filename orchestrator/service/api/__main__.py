"""The API's process: `python -m orchestrator.service.api`, with the service's settings from options, environment or file.

Neighbours: the supervisor starts it with every setting in the environment; alone it needs a Redis. Invariants: it listens beyond loopback
only where a token exists; SIGTERM ends it within some seconds, open streams included.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
import uvicorn

from orchestrator.errors import ConfigError, MgrdError
from orchestrator.service.access import owner
from orchestrator.service.api.app import create_app
from orchestrator.service.capacity import RayCapacity
from orchestrator.service.home import Home
from orchestrator.service.ray_api import RayApi
from orchestrator.service.settings import ServiceSettings, read_settings
from orchestrator.service.store import Store
from orchestrator.service.tokens import TokenStore

log = logging.getLogger("orchestrator.service.api")
PATIENCE_S = 5.0  # of one request, for a Redis that is away; then 503 and Retry-After
RAY_S = 5.0
DRAIN_S = 5  # for requests under way when the process ends
BACKLOG = 2048


def main(
    *,
    host: Annotated[str | None, typer.Option(help="Address to listen on; beyond loopback only with a token.")] = None,
    port: Annotated[int | None, typer.Option(help="Port.")] = None,
    redis_url: Annotated[str | None, typer.Option(help="Redis that holds the service's state.")] = None,
    mlflow_uri: Annotated[str | None, typer.Option(help="MLflow server.")] = None,
    ray_dashboard: Annotated[str | None, typer.Option(help="HTTP address of Ray's dashboard.")] = None,
    ssl_certfile: Annotated[str | None, typer.Option(help="PEM; with --ssl-keyfile: HTTPS.")] = None,
    ssl_keyfile: Annotated[str | None, typer.Option(help="PEM.")] = None,
    forwarded_allow_ips: Annotated[
        str | None, typer.Option(help="Proxies that are believed about the client's address.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings.")] = None,
) -> None:
    """Serve the API; every setting of the service may also come from MGRD_… variables or a file."""
    logging.basicConfig(
        level=os.environ.get("MGRD_LOG_LEVEL", "INFO"),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    options = {
        "host": host,
        "port": port,
        "redis_url": redis_url,
        "mlflow_uri": mlflow_uri,
        "ray_dashboard": ray_dashboard,
        "ssl_certfile": ssl_certfile,
        "ssl_keyfile": ssl_keyfile,
        "forwarded_allow_ips": forwarded_allow_ips,
    }
    try:
        settings = read_settings(options, file=config)
        serve(settings, Home.default())
    except MgrdError as error:
        log.error("%s", error)
        raise typer.Exit(2) from error


def serve(settings: ServiceSettings, home: Home) -> None:
    """Until a signal comes. Raises ConfigError, HomeError, StoreError before anything listens."""
    if not settings.redis_url:
        raise ConfigError("the API needs a Redis: set --redis-url or MGRD_REDIS_URL, or start all of it with `mgrd up`")
    home.make()
    store = Store.from_url(settings.redis_url, settings.redis_prefix, patience_s=PATIENCE_S)
    tokens = TokenStore.from_url(settings.redis_url, settings.redis_prefix, patience_s=PATIENCE_S)
    allow_bind(settings, tokens)
    ray = (
        RayApi(settings.ray_dashboard, os.environ.get("RAY_AUTH_TOKEN", ""), timeout_s=RAY_S)
        if settings.ray_dashboard
        else None
    )
    app = create_app(settings, store, tokens, home=home, look=RayCapacity(ray).look if ray else None)
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        ssl_certfile=settings.ssl_certfile or None,
        ssl_keyfile=settings.ssl_keyfile or None,
        proxy_headers=True,
        forwarded_allow_ips=settings.forwarded_allow_ips,
        timeout_graceful_shutdown=DRAIN_S,
        backlog=BACKLOG,
        access_log=False,
        server_header=False,
        log_config=None,
    )


def allow_bind(settings: ServiceSettings, tokens: TokenStore) -> None:
    """Raises ConfigError for an address that others can reach while there is no token; says so where there is none."""
    if tokens.configured():
        return
    if not settings.loopback:
        raise ConfigError(
            f"{settings.host} can be reached from other machines and no token exists, so anybody could run code here: make one with "
            "`mgrd token create --scope admin`, or listen on 127.0.0.1"
        )
    log.warning(
        "no token exists: the API listens on loopback (%s) only, and whoever reaches it is %s with all rights",
        settings.host,
        owner(),
    )


if __name__ == "__main__":
    typer.run(main)
