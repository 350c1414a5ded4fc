"""Clients find the service by what they were given, by the environment, by the machine's record; else they say what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import guardian
from orchestrator.service.discovery import NoServiceKnown, find_service
from orchestrator.service.home import Home, ServiceRecord


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("MGRD_STATE", str(tmp_path))
    monkeypatch.delenv("MGRD_URL", raising=False)
    monkeypatch.delenv("MGRD_TOKEN", raising=False)
    home = Home.default()
    home.make()
    return home


def running(url: str = "http://127.0.0.1:8420", token: str = "mgrd_a_b") -> ServiceRecord:
    row = guardian.look(os.getpid())
    assert row is not None
    return ServiceRecord(url=url, token=token, pid=os.getpid(), pid_start=row[1])


def test_without_a_service_the_message_says_how_to_get_one(home: Home) -> None:
    with pytest.raises(NoServiceKnown, match=r"start one with `mgrd up`, or set MGRD_URL"):
        find_service()
    home.write_record(ServiceRecord(url="http://127.0.0.1:8420", pid=2**22 + 1, pid_start=1, error="disk full"))
    with pytest.raises(NoServiceKnown, match=r"is stopped \(disk full\): start it again"):
        find_service()
    home.record_file.write_text("{")
    with pytest.raises(NoServiceKnown, match="damaged"):
        find_service()


def test_given_wins_over_environment_over_record(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.write_record(running())
    found = find_service()
    assert (found.url, found.token) == ("http://127.0.0.1:8420", "mgrd_a_b")
    monkeypatch.setenv("MGRD_URL", "https://cluster.example/")
    assert find_service().url == "https://cluster.example"
    assert find_service("http://other:1").url == "http://other:1"


def test_the_records_token_goes_to_the_records_address_only(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.write_record(running())
    assert find_service("https://elsewhere.example").token == ""
    assert find_service("http://127.0.0.1:8420/").token == "mgrd_a_b"
    monkeypatch.setenv("MGRD_TOKEN", "mgrd_mine")
    assert find_service("https://elsewhere.example").token == "mgrd_mine"
    assert "mgrd_mine" not in repr(find_service())


def test_what_is_no_address_is_refused(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MGRD_URL", "127.0.0.1:8420")
    with pytest.raises(NoServiceKnown, match=r"MGRD_URL: '127\.0\.0\.1:8420' is no address"):
        find_service()


def test_importing_the_package_loads_no_http_client() -> None:
    code = "import sys, orchestrator; sys.exit('httpx' in sys.modules or 'redis' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
