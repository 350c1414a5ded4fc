"""Where the registry of published rewards is: the given Redis, else that of the service that runs here, else one of this machine that runs
while it is needed.

Neighbours: `rewards_cli` and the controller open it; `embedded` starts the server. Invariants: one process at a time holds this
machine's registry, others wait for it, with a limit; its data outlives every command.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from orchestrator import paths
from orchestrator.embedded import EmbeddedServices
from orchestrator.errors import MgrdError
from orchestrator.service_record import HomeError, read_record, service_folder
from rewards import PublishedStore, RewardError

VARIABLE = "MGRD_REDIS_URL"
LOCK_LIMIT_S = 60.0  # a command holds it for less than a second; one that waits longer says so


def bundle_dir() -> Path:
    """Where published rewards are materialised, by hash."""
    return paths.cache_dir() / "reward_bundles"


def registry_dir() -> Path:
    """Data of this machine's own registry."""
    return paths.state_dir() / "rewards"


@contextmanager
def open_store(redis_url: str = "") -> Iterator[PublishedStore]:
    """The registry behind `redis_url`, else MGRD_REDIS_URL, else of the running service, else this machine's own. Keep it open shortly.

    Raises RewardError when it does not answer or somebody else holds it.
    """
    url = redis_url or os.environ.get(VARIABLE, "") or _of_service()
    if url:
        with _connected(url) as store:
            yield store
        return
    root = registry_dir()
    with _locked(root):
        services = EmbeddedServices(root)
        try:
            try:
                url = services.redis()
            except MgrdError as error:
                raise RewardError(f"this machine's registry of rewards did not start: {error}") from error
            with _connected(url) as store:
                yield store
        finally:
            services.stop()


def _of_service() -> str:
    """Redis of the service that runs on this machine for this user, "" for none: its experiments look rewards up there."""
    try:
        record = read_record(service_folder())
    except HomeError:
        return ""  # another user's service: its registry is not ours
    return record.redis_url if record.alive else ""


@contextmanager
def _connected(url: str) -> Iterator[PublishedStore]:
    store = PublishedStore.from_url(url, bundle_dir())
    try:
        yield store
    finally:
        store.close()


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = (root / "lock").open("w")
    except OSError as error:
        raise RewardError(f"{root} can't be written ({error.strerror}): set MGRD_CACHE or {VARIABLE}") from error
    with lock:
        _wait_for(lock, root)
        yield


def _wait_for(lock: IO[str], root: Path) -> None:
    deadline = time.monotonic() + LOCK_LIMIT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise RewardError(
                    f"another process holds the registry in {root} for {LOCK_LIMIT_S:.0f} s; end it, or give a server of your "
                    f"own by {VARIABLE}"
                ) from None
            time.sleep(0.05)
