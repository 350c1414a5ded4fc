"""What can be set about the service, with defaults; from options, the environment and a YAML file, in this order.

Neighbours: `up` reads all three, the supervisor hands the result to its children as `MGRD_*` variables, and a container sets the same
variables itself. Invariants: this dataclass is the only place for defaults; an unknown key is refused with the nearest name, and every
problem of a value is told before anything starts.
"""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import yaml

from orchestrator.config.shown import hidden
from orchestrator.errors import ConfigError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PREFIX = "MGRD_"
CONFIG_VARIABLE = "MGRD_CONFIG"  # the YAML file, where no --config is given


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """host, port: of the API; port 0 takes a free one, kept over restarts.
    redis_url, mlflow_uri, ray_address: servers that run already; empty: the service keeps its own.
    ray_dashboard: HTTP address that takes Ray jobs; empty: derived from ray_address. ray_cpus, ray_gpus: of the service's own Ray, -1: what
    the machine has; object_store_mb: its shared memory. mlflow_root: of its own MLflow; empty: the store that `mgrd run` uses.
    redis_prefix: of every key. redis_fsync: always | everysec; the first loses nothing that was answered, also not to SIGKILL.
    schedulers: processes; two or more make one redundant. round_s: pause between rounds; lease_s: silence after which another takes over.
    allowed_roots: folders that configurations may name files in.
    quota_running, quota_gpus, quota_cpus: one user's share at a time, 0: no limit. quota_queued: one user's waiting experiments.
    retry_budget: launches after an infrastructure failure. max_body_mb, max_code_mb: of one request. rate_per_s, rate_burst: requests of
    one user. log_max_mb, log_backups: a log file is turned over at this size, so many old ones are kept.
    ssl_certfile, ssl_keyfile: PEM; forwarded_allow_ips: proxies that are believed about the client's address, comma-separated.
    stop_grace_s: time that `mgrd down` gives running experiments to reach a checkpoint; pause_on_stop: they pause also where Ray and Redis
    go on without the service, as before the end of an allocation. min_free_disk_gib: below, `mgrd doctor` warns.
    """

    host: str = "127.0.0.1"
    port: int = 8420
    redis_url: str = ""
    redis_prefix: str = "mgrd:"
    redis_fsync: str = "always"
    mlflow_uri: str = ""
    mlflow_root: str = ""
    ray_address: str = ""
    ray_dashboard: str = ""
    ray_cpus: int = -1
    ray_gpus: int = -1
    object_store_mb: int = 512
    schedulers: int = 1
    round_s: float = 1.0
    lease_s: float = 30.0
    allowed_roots: tuple[str, ...] = ()
    quota_running: int = 0
    quota_queued: int = 1000
    quota_gpus: float = 0.0
    quota_cpus: float = 0.0
    retry_budget: int = 3
    max_body_mb: float = 4.0
    max_code_mb: float = 64.0
    rate_per_s: float = 50.0
    rate_burst: int = 200
    log_max_mb: float = 64.0
    log_backups: int = 3
    ssl_certfile: str = ""
    ssl_keyfile: str = ""
    forwarded_allow_ips: str = "127.0.0.1"
    stop_grace_s: float = 20.0
    pause_on_stop: bool = False
    min_free_disk_gib: float = 5.0

    @property
    def loopback(self) -> bool:
        """Only this machine can reach the API."""
        return self.host in LOOPBACK or _is_loopback(self.host)

    def environment(self) -> dict[str, str]:
        """The variables from which `read_settings` makes these settings again."""
        return {variable(item.name): _text(getattr(self, item.name)) for item in dataclasses.fields(self)}


def keys() -> list[str]:
    return [item.name for item in dataclasses.fields(ServiceSettings)]


def variable(key: str) -> str:
    """Environment variable of a setting: `redis_url` → `MGRD_REDIS_URL`."""
    return PREFIX + key.upper()


def read_settings(
    options: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> ServiceSettings:
    """options: those that were given, None values left out; environment: `os.environ` when None; file: YAML, else `$MGRD_CONFIG`.

    Raises ConfigError for an unknown key or a value that can't be, all problems in one message.
    """
    environment = os.environ if environment is None else environment
    named = file or (Path(environment[CONFIG_VARIABLE]) if environment.get(CONFIG_VARIABLE) else None)
    values = _from_file(named) if named else {}
    values |= {key: environment[variable(key)] for key in keys() if environment.get(variable(key), "") != ""}
    given = {key: value for key, value in (options or {}).items() if value is not None}
    _refuse_unknown(given, "option")
    values |= given
    return checked(_converted(values))


def checked(settings: ServiceSettings) -> ServiceSettings:
    """The same settings. Raises ConfigError for values that can't work."""
    found = problems(settings)
    if found:
        raise ConfigError("settings of the service refused:\n" + "\n".join(f"  - {line}" for line in found))
    return settings


def problems(settings: ServiceSettings) -> list[str]:
    """Every value that can't work, with what to do. Files are looked up; nothing is started."""
    out = []
    if not 0 <= settings.port < 65_536:
        out.append(f"port={settings.port}: choose one from 1 to 65535, or 0 for any free one")
    for key in ("schedulers", "object_store_mb", "rate_burst", "quota_queued"):
        if getattr(settings, key) < 1:
            out.append(f"{key}={getattr(settings, key)}: must be at least 1")
    for key in ("round_s", "lease_s", "max_body_mb", "max_code_mb", "rate_per_s", "log_max_mb"):
        if not getattr(settings, key) > 0:
            out.append(f"{key}={getattr(settings, key)}: must be above 0")
    for key in ("quota_running", "quota_gpus", "quota_cpus", "retry_budget", "log_backups", "stop_grace_s"):
        if not getattr(settings, key) >= 0:
            out.append(f"{key}={getattr(settings, key)}: must not be negative")
    if settings.lease_s < 3 * settings.round_s:
        out.append(
            f"lease_s={settings.lease_s}: must be at least three rounds ({3 * settings.round_s} s), or a busy scheduler loses its work"
        )
    if settings.redis_fsync not in ("always", "everysec"):
        out.append(f"redis_fsync={settings.redis_fsync!r}: is always or everysec")
    for key, schemes in _SCHEMES.items():
        value = getattr(settings, key)
        if value and not value.startswith(schemes):
            out.append(f"{key}={hidden(value)!r}: begins with {' or '.join(schemes)}")
    if bool(settings.ssl_certfile) != bool(settings.ssl_keyfile):
        out.append("ssl_certfile and ssl_keyfile belong together: give both, or neither")
    for key in ("ssl_certfile", "ssl_keyfile"):
        if (path := getattr(settings, key)) and not os.access(path, os.R_OK):
            out.append(f"{key}={path}: no such file, or not readable")
    out += [
        f"allowed_roots: {root} is not an absolute path"
        for root in settings.allowed_roots
        if not Path(root).is_absolute()
    ]
    return out


_SCHEMES = {
    "redis_url": ("redis://", "rediss://", "unix://"),
    "mlflow_uri": ("http://", "https://"),
    "ray_dashboard": ("http://", "https://"),
}


def _from_file(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"settings file {path} can't be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"settings file {path} is no YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"settings file {path}: write `key: value`, a line each, for example `schedulers: 2`")
    values = {str(key): value for key, value in content.items()}
    _refuse_unknown(values, f"settings file {path}: key")
    return values


def _refuse_unknown(values: Mapping[str, Any], where: str) -> None:
    for key in values:
        if key not in keys():
            close = difflib.get_close_matches(key, keys(), n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(keys())}"
            raise ConfigError(f"{where} {key!r} is unknown; {hint}")


def _converted(values: Mapping[str, Any]) -> ServiceSettings:
    """Texts of the environment become numbers; lists may be written with commas."""
    ready = {
        key: tuple(part.strip() for part in value.split(",") if part.strip())
        if key == "allowed_roots" and isinstance(value, str)
        else value
        for key, value in values.items()
    }
    out = []
    for key, value in ready.items():
        try:
            msgspec.convert({key: value}, ServiceSettings, strict=False)
        except msgspec.ValidationError as error:
            out.append(
                f"  - {key}={value!r}: {str(error).split(' - at')[0][:1].lower()}{str(error).split(' - at')[0][1:]}"
            )
    if out:
        raise ConfigError("settings of the service refused:\n" + "\n".join(out))
    return msgspec.convert(ready, ServiceSettings, strict=False)


def _text(value: Any) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


__all__ = ["CONFIG_VARIABLE", "LOOPBACK", "ServiceSettings", "checked", "keys", "problems", "read_settings", "variable"]
