"""Restarts, turned-over logs and settings: what the supervisor decides, without a process."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import ConfigError
from orchestrator.restarts import SERVICE, RestartPolicy
from orchestrator.service.home import Home, HomeError, ProcessRecord, ProcessTable, ServiceRecord, is_alive
from orchestrator.service.rotation import rotate
from orchestrator.service.settings import ServiceSettings, keys, read_settings, variable

TIMES = st.lists(st.floats(0, 1e7), max_size=60).map(sorted)


@given(TIMES, st.floats(0, 1e7))
def test_a_service_is_never_given_up_and_never_waits_longer_than_its_limit(deaths: list[float], now: float) -> None:
    delay = SERVICE.delay(deaths, now)
    assert delay is not None
    assert SERVICE.first_s <= delay <= SERVICE.longest_s


@given(TIMES)
def test_each_death_of_the_window_makes_the_pause_no_shorter(deaths: list[float]) -> None:
    now = deaths[-1] if deaths else 0.0
    delays = [SERVICE.delay(deaths[len(deaths) - count :], now) for count in range(len(deaths) + 1)]
    assert delays == sorted(delays)


def test_deaths_that_lie_behind_are_forgotten() -> None:
    policy = RestartPolicy(most=2, window_s=60.0)
    assert policy.delay([0.0, 1.0, 2.0], 2.0) is None
    assert policy.delay([0.0, 1.0, 100.0], 100.0) == policy.first_s
    assert policy.remembered([0.0, 1.0, 100.0], 100.0) == [100.0]


def test_a_run_gives_a_server_up_after_its_number_of_deaths_however_long_ago() -> None:
    policy = RestartPolicy(most=5)
    assert policy.window_s == math.inf
    assert policy.delay([0.0] * 5, 1e9) is not None
    assert policy.delay([0.0] * 6, 1e9) is None


def test_log_is_turned_over_while_its_writer_keeps_it_open(tmp_path: Path) -> None:
    log = tmp_path / "api.log"
    with log.open("ab", buffering=0) as writer:
        for round in range(5):
            writer.write(f"round {round}\n".encode() * 10)
            assert rotate(log, 50, 2)
        writer.write(b"after\n")
    assert log.read_text() == "after\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["api.log", "api.log.1", "api.log.2"]
    assert (tmp_path / "api.log.1").read_text().startswith("round 4")
    assert (tmp_path / "api.log.2").read_text().startswith("round 3")


def test_small_or_absent_log_is_left_alone(tmp_path: Path) -> None:
    assert not rotate(tmp_path / "absent.log", 10, 2)
    (tmp_path / "small.log").write_text("0123456789")
    assert not rotate(tmp_path / "small.log", 10, 2)


def test_without_old_ones_to_keep_a_log_is_emptied(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("x" * 20)
    assert rotate(tmp_path / "a.log", 10, 0)
    assert [(path.name, path.stat().st_size) for path in tmp_path.iterdir()] == [("a.log", 0)]


def test_settings_go_through_the_environment_unchanged() -> None:
    settings = dataclasses.replace(
        ServiceSettings(), host="::1", port=0, allowed_roots=("/a", "/b c"), lease_s=12.5, redis_url="redis://:p@h:1/0"
    )
    assert read_settings({}, settings.environment()) == settings
    assert set(settings.environment()) == {variable(key) for key in keys()}


def test_option_wins_over_environment_and_environment_over_file(tmp_path: Path) -> None:
    file = tmp_path / "mgrd.yaml"
    file.write_text("port: 1\nschedulers: 2\nlease_s: 40\nallowed_roots: [/data, /models]\n")
    read = read_settings({"port": 3, "host": None}, {"MGRD_PORT": "2", "MGRD_SCHEDULERS": "4"}, file)
    assert (read.port, read.schedulers, read.lease_s) == (3, 4, 40.0)
    assert read.allowed_roots == ("/data", "/models")
    assert read_settings({}, {"MGRD_CONFIG": str(file)}).schedulers == 2


@pytest.mark.parametrize(
    ("options", "environment", "text", "message"),
    [
        ({"shedulers": 2}, {}, "", r"option 'shedulers' is unknown; did you mean schedulers"),
        ({}, {}, "redis-url: redis://h", r"key 'redis-url' is unknown; did you mean redis_url"),
        ({}, {}, "- a\n- b", r"write `key: value`"),
        ({}, {}, "a: [", r"is no YAML"),
        ({}, {"MGRD_PORT": "http"}, "", r"port='http': expected `int`"),
        ({"port": 70_000}, {}, "", r"port=70000: choose one from 1 to 65535"),
        ({"schedulers": 0}, {}, "", r"schedulers=0: must be at least 1"),
        ({"lease_s": 1.0}, {}, "", r"lease_s=1\.0: must be at least three rounds"),
        ({"redis_url": "localhost:6379"}, {}, "", r"redis_url='localhost:6379': begins with redis://"),
        ({"ssl_certfile": "/none.pem"}, {}, "", r"belong together(.|\n)*/none\.pem: no such file"),
        ({"allowed_roots": "data"}, {}, "", r"allowed_roots: data is not an absolute path"),
        ({"redis_fsync": "never"}, {}, "", r"redis_fsync='never': is always or everysec"),
        ({"rate_per_s": float("nan")}, {}, "", r"rate_per_s=nan: must be above 0"),
    ],
)
def test_bad_setting_is_refused_with_what_to_do(
    options: dict[str, object], environment: dict[str, str], text: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "mgrd.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_settings(options, environment, file)


def test_all_bad_values_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as refused:
        read_settings({"port": -1, "schedulers": 0, "rate_per_s": 0})
    assert [key in str(refused.value) for key in ("port=-1", "schedulers=0", "rate_per_s=0")] == [True] * 3


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.0.0.5"])
def test_address_of_this_machine_is_loopback(host: str) -> None:
    assert ServiceSettings(host=host).loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.1", "mgrd.example"])
def test_address_that_others_reach_is_not(host: str) -> None:
    assert not ServiceSettings(host=host).loopback


def test_record_and_processes_come_back_as_written_and_only_their_owner_reads_them(tmp_path: Path) -> None:
    home = Home(tmp_path / "service")
    assert home.record() == ServiceRecord()
    home.make()
    record = ServiceRecord(url="http://127.0.0.1:8420", token="mgrd_a_b", own=("redis",), pid=3, stopped=("a-1",))
    table = ProcessTable((ProcessRecord("api", 5, 6, 1.5, restarts=2),))
    home.write_record(record)
    home.write_processes(table)
    assert home.record() == record
    assert home.processes() == table
    assert home.record_file.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in home.root.iterdir() if path.is_file()) == ["processes.json", "service.json"]


def test_damaged_record_says_what_to_do(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.record_file.write_text("{")
    with pytest.raises(HomeError, match=r"service\.json is damaged"):
        home.record()


def test_home_that_can_not_be_made_names_the_variable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HomeError, match="MGRD_STATE"):
        Home(tmp_path / "file" / "service").make()


def test_a_process_id_alone_is_not_taken_for_the_process() -> None:
    assert not is_alive(1, -5)
    assert not is_alive(0, 0)
