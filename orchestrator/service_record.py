"""The file by which others on this machine find the service, and its folder.

Neighbours: the service's `home` writes it; `rewards_store` looks for the service's Redis in it. Invariants: a record names its writer by
process id and start time, so that one of a dead service is known as such; what is no record of ours is an error that says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from orchestrator import guardian, paths
from orchestrator.errors import MgrdError

T = TypeVar("T")
RECORD = "service.json"


class HomeError(MgrdError):
    """The service's folder can't be made, read or written; names it."""


@dataclass(frozen=True, slots=True)
class ServiceRecord:
    """What `service.json` says.

    url: of the API, "" before the first start; token: bearer token of this machine's owner, "" while the service has no tokens;
    pid, pid_start: the supervisor and its start time in clock ticks, together they name a process for good, 0 when stopped;
    ready: every server has answered; *_url, *_uri, *_address: with passwords; ray_dashboard: HTTP address that takes jobs;
    ray_token: secret of the service's own Ray, "" for another's; own: the servers that the service itself keeps (redis, mlflow, ray);
    certificate: PEM file that the API serves, "" without TLS; started_at: seconds since 1970 UTC; error: why it does not serve, ""
    otherwise; stopped: experiments that its stop has asked to pause and that are not back in the queue yet.
    """

    url: str = ""
    token: str = ""
    pid: int = 0
    pid_start: int = 0
    ready: bool = False
    redis_url: str = ""
    mlflow_uri: str = ""
    ray_address: str = ""
    ray_dashboard: str = ""
    ray_token: str = ""
    own: tuple[str, ...] = ()
    certificate: str = ""
    started_at: float = 0.0
    error: str = ""
    stopped: tuple[str, ...] = ()

    @property
    def alive(self) -> bool:
        """The supervisor still runs, and is the one that wrote this."""
        return is_alive(self.pid, self.pid_start)


def service_folder() -> Path:
    """`$MGRD_STATE`/service; see `paths.state_dir`."""
    return (paths.state_dir() / "service").absolute()


def read_record(folder: Path) -> ServiceRecord:
    """Of the last start; an empty one before the first. Raises HomeError for a file that is not ours."""
    return read_json(folder / RECORD, ServiceRecord) or ServiceRecord()


def read_json(path: Path, kind: type[T]) -> T | None:
    """None where there is no such file. Raises HomeError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HomeError(
            f"{path} can't be read ({error.strerror}): it belongs to whoever started the service"
        ) from error
    except msgspec.MsgspecError as error:
        raise HomeError(f"{path} is damaged ({error}): stop the service's processes, then remove this file") from error


def is_alive(pid: int, pid_start: int) -> bool:
    """A process of this id runs and began at that time."""
    row = guardian.look(pid) if pid else None
    return row is not None and row[1] == pid_start
