"""Repositories of the Hugging Face hub as local folders, from its cache first.

Neighbour: `resolve`. Invariant: a machine without a way to the hub learns so in seconds, not after minutes of retries.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 4.0


class HubError(RuntimeError):
    """A repository is neither in the hub's cache nor to be downloaded."""


def fetch_from_hub(
    repo: str, files: Sequence[str] | None = None, complete: Callable[[Path], bool] | None = None
) -> Path:
    """Folder of a repository, all files or those named. Raises HubError with the reason.

    complete: tells whether a folder found in the cache is whole; without it, the named files have to be there.
    """
    wanted = list(files) if files else None
    try:
        folder = Path(snapshot_download(repo, allow_patterns=wanted, local_files_only=True))
        if complete(folder) if complete else all((folder / name).is_file() for name in wanted or ()):
            log.info("hub %s: in the cache", repo)
            return folder
        reason = "incomplete in the hub's cache"
    except (OSError, HFValidationError) as error:
        reason = "not in the hub's cache"
        if isinstance(error, HFValidationError):
            raise HubError(f"{repo} is no name of a hub repository") from error
    unreachable = _unreachable()
    if unreachable:
        raise HubError(f"{reason}, and {unreachable}")
    log.info("hub %s: %s; downloading", repo, reason)
    try:
        return Path(snapshot_download(repo, allow_patterns=wanted, etag_timeout=CONNECT_TIMEOUT_S))
    except (OSError, HfHubHTTPError) as error:
        raise HubError(f"{reason}, and the download failed: {str(error).splitlines()[0]}") from error


def _unreachable() -> str:
    """Why the hub cannot be asked, or an empty string. With a proxy set, only asking would tell."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    url = urlsplit(os.environ.get("HF_ENDPOINT") or constants.ENDPOINT)
    if url.scheme in getproxies():
        return ""
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        socket.create_connection((url.hostname or "", port), CONNECT_TIMEOUT_S).close()
    except OSError as error:
        return f"{url.hostname} cannot be reached ({error})"
    return ""
