"""What is said of a Redis that would lose the queue."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from store_room import StoreRoom

from orchestrator.service.store_persistence import persistence_problems, problems


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreRoom]:
    room = StoreRoom(tmp_path_factory.mktemp("store"))
    yield room
    room.close()


def test_our_own_server_has_no_problem_and_each_bad_setting_is_named(room: StoreRoom) -> None:
    client = room.fresh().link.client
    assert persistence_problems(client) == []
    for name, bad, good in (
        ("appendfsync", "no", "everysec"),
        ("no-appendfsync-on-rewrite", "yes", "no"),
        ("maxmemory-policy", "allkeys-lru", "noeviction"),
        ("maxmemory", "1100000", "0"),
        ("appendonly", "no", "yes"),
    ):
        client.config_set(name, bad)
        found = persistence_problems(client)
        client.config_set(name, good)
        assert (len(found) == 1 and found[0].startswith(name)) or "raise maxmemory" in found[0], (name, found)


def test_a_server_whose_settings_are_closed_is_judged_by_what_it_tells(room: StoreRoom) -> None:
    client = room.fresh().link.client
    client.execute_command("ACL", "SETUSER", "guest", "on", ">pw", "~*", "+@all", "-config")
    guest = type(client).from_url(
        room.url.replace("//:", "//guest:").replace(room.url.split(":")[2].split("@")[0], "pw")
    )
    found = persistence_problems(guest)
    assert len(found) == 1 and "can't be read" in found[0] and "appendonly" in found[0]
    guest.close()


@pytest.mark.parametrize(
    ("settings", "persistence", "said"),
    [
        ({}, {"aof_enabled": "0"}, "appendonly is off"),
        ({}, {"aof_last_write_status": "err"}, "last write to the append-only file failed"),
        ({}, {"aof_last_bgrewrite_status": "err"}, "last rewrite"),
        ({"save": "3600 1"}, {"rdb_last_bgsave_status": "err"}, "last snapshot failed"),
        ({}, {"loading": "1"}, "still reading"),
    ],
)
def test_each_failure_of_its_files_is_named(settings: dict[str, str], persistence: dict[str, str], said: str) -> None:
    found = problems(settings, persistence, {})
    assert len(found) == 1 and said in found[0]
    assert problems({"save": ""}, {"rdb_last_bgsave_status": "err"}, {}) == []
