"""Whether a Redis keeps what the store writes: its settings and the state of its files, read and judged.

Neighbours: `mgrd doctor` and the supervisor show what is found. Invariant: nothing is changed on the server.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import redis

SETTINGS = ("appendonly", "appendfsync", "no-appendfsync-on-rewrite", "maxmemory", "maxmemory-policy", "save")


def persistence_problems(client: Any) -> list[str]:
    """Empty: nothing to complain of. client: a `redis.Redis`, decoding or not. Raises redis.RedisError when it does not answer."""
    persistence = _words(client.info("persistence"))
    memory = _words(client.info("memory"))
    try:
        settings = _words(client.config_get(*SETTINGS))
    except redis.ResponseError as error:  # a hosted server: CONFIG is disabled or renamed
        settings = {}
        unread = [
            f"its settings can't be read ({error}): see with whoever runs it that appendonly is on, and eviction off"
        ]
    else:
        unread = []
    return problems(settings, persistence, memory) + unread


def problems(settings: Mapping[str, str], persistence: Mapping[str, str], memory: Mapping[str, str]) -> list[str]:
    """settings: of CONFIG GET, empty when unknown; persistence, memory: sections of INFO."""
    found = []
    if settings.get("appendonly", "yes") == "no" or persistence.get("aof_enabled") == "0":
        found.append(
            "appendonly is off: a restart loses the queue; `CONFIG SET appendonly yes`, and in its configuration file"
        )
    if settings.get("appendfsync") == "no":
        found.append(
            "appendfsync is `no`: a crash of the machine loses up to half a minute; set `everysec` or `always`"
        )
    if settings.get("no-appendfsync-on-rewrite") == "yes":
        found.append("no-appendfsync-on-rewrite is on: nothing is safe while the file is rewritten; set it to `no`")
    policy = settings.get("maxmemory-policy") or memory.get("maxmemory_policy") or "noeviction"
    if policy != "noeviction":
        found.append(f"maxmemory-policy is {policy}: experiments may be thrown away; set `noeviction`")
    limit, used = int(settings.get("maxmemory") or memory.get("maxmemory") or 0), int(memory.get("used_memory") or 0)
    if limit and used > 0.9 * limit:
        found.append(f"{used >> 20} of {limit >> 20} MiB are used: soon every write is refused; raise maxmemory")
    if persistence.get("aof_last_write_status", "ok") != "ok":
        found.append(
            "the last write to the append-only file failed: look at the disk's free space, and at the server's log"
        )
    if persistence.get("aof_last_bgrewrite_status", "ok") != "ok":
        found.append(
            "the last rewrite of the append-only file failed: it grows; look at free memory, disk and the server's log"
        )
    if settings.get("save", "") and persistence.get("rdb_last_bgsave_status", "ok") != "ok":
        found.append("the last snapshot failed, which makes Redis refuse writes: look at free memory, disk and its log")
    if persistence.get("loading") == "1":
        found.append("it is still reading its data: wait")
    return found


def _words(pairs: Mapping[Any, Any]) -> dict[str, str]:
    return {_word(name): _word(value) for name, value in pairs.items()}


def _word(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
