"""What the ledger refuses, and how it says that Redis is away. No server runs here."""

from __future__ import annotations

import socket
import time

import pytest

from rollout import Ledger, LedgerError


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_a_server_that_stays_away_is_an_error_after_the_limit() -> None:
    port = closed_port()
    ledger: Ledger = Ledger(f"redis://:secret@127.0.0.1:{port}/0", "run", reconnect_s=0.3)
    began = time.monotonic()
    with pytest.raises(LedgerError, match=rf"could not read the frontier, Redis at 127.0.0.1:{port} is away") as caught:
        ledger.frontier()
    assert 0.2 < time.monotonic() - began < 5
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("run_id", ["", "a{b}"])
def test_a_run_id_that_can_not_be_a_key_is_refused(run_id: str) -> None:
    with pytest.raises(LedgerError, match="run id"):
        Ledger("redis://127.0.0.1:1/0", run_id)


def test_a_malformed_url_is_refused_at_once() -> None:
    with pytest.raises(LedgerError, match="URL is malformed"):
        Ledger("http://127.0.0.1:1/0", "run")


def test_a_ledger_without_a_verdict_type_stores_no_verdicts() -> None:
    ledger: Ledger = Ledger("redis://127.0.0.1:1/0", "run")
    with pytest.raises(LedgerError, match="verdict_type=Verdict"):
        ledger.put_verdicts({"id": object()})


def test_a_negative_round_is_refused() -> None:
    with pytest.raises(LedgerError, match="numbered from 0"):
        Ledger("redis://127.0.0.1:1/0", "run").append_all(-1, [])
