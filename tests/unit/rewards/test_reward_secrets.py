"""Secrets come by name, are refused where others can read them, and don't show."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rewards.secrets as secrets_module
from rewards import RewardError
from rewards.secrets import gather, redact, secret

VALUE = 'sk-4f"9/a+quite=long'


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No secret is known, no store is there, and the log records are as they were afterwards."""
    monkeypatch.setattr(secrets_module, "_known", {})
    monkeypatch.setattr(secrets_module, "_pattern", None)
    monkeypatch.setenv("MGRD_SECRETS", str(tmp_path / "secrets.toml"))
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    factory = logging.getLogRecordFactory()
    yield
    logging.setLogRecordFactory(factory)


def write_store(tmp_path: Path, text: str, mode: int = 0o600) -> Path:
    path = tmp_path / "secrets.toml"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_the_environment_comes_before_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_store(tmp_path, 'JUDGE_KEY = "from the store"\nOTHER_KEY = "other value"\n')
    assert gather(["JUDGE_KEY", "OTHER_KEY"]) == {"JUDGE_KEY": "from the store", "OTHER_KEY": "other value"}
    monkeypatch.setenv("JUDGE_KEY", "from the environment\n")
    assert secret("JUDGE_KEY") == "from the environment"


def test_a_missing_secret_names_itself_and_both_places(tmp_path: Path) -> None:
    with pytest.raises(
        RewardError, match=r"'JUDGE_KEY' is missing: set the environment variable JUDGE_KEY, or add .*secrets\.toml"
    ):
        secret("JUDGE_KEY")
    write_store(tmp_path, 'OTHER_KEY = "other value"\n')
    with pytest.raises(RewardError, match=r"environment variable JUDGE_KEY.*secrets\.toml"):
        secret("JUDGE_KEY")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o620])
def test_a_store_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    write_store(tmp_path, f"JUDGE_KEY = '{VALUE}'\n", mode)
    with pytest.raises(RewardError, match="chmod 600") as caught:
        secret("JUDGE_KEY")
    assert VALUE not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("JUDGE_KEY = sk-quite-long-value\n", "not TOML"),
        ("JUDGE_KEY = 12345678\n", "is int, not text"),
        ("[JUDGE_KEY]\nvalue = 'sk-quite-long-value'\n", "is dict, not text"),
        ("JUDGE_KEY = 'short'\n", "8 or more"),
        ('JUDGE_KEY = "sk-quite\\r\\nlong-value"\n', "printable"),
        ("JUDGE_KEY = 'schlüssel-lang'\n", "ASCII"),
    ],
)
def test_what_is_no_usable_secret_is_refused_without_showing_it(tmp_path: Path, text: str, reason: str) -> None:
    write_store(tmp_path, text)
    with pytest.raises(RewardError, match=reason) as caught:
        secret("JUDGE_KEY")
    assert "quite" not in str(caught.value) and "lang" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(RewardError, match="not the name of a secret"):
        secret("../etc/passwd")


def test_redact_strikes_out_every_written_form(monkeypatch: pytest.MonkeyPatch) -> None:
    assert redact(f"key {VALUE}") == f"key {VALUE}"  # not handed out: not known
    monkeypatch.setenv("JUDGE_KEY", VALUE)
    secret("JUDGE_KEY")
    for form in (VALUE, "sk-4f%229%2Fa%2Bquite%3Dlong", 'sk-4f\\"9/a+quite=long', "c2stNGYiOS9hK3F1aXRlPWxvbmc"):
        assert redact(f"key {form}, sorry {form}") == "key [secret JUDGE_KEY], sorry [secret JUDGE_KEY]"
    assert redact("nothing to hide") == "nothing to hide"


def test_redact_strikes_out_a_value_that_a_cut_left_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", VALUE)
    secret("JUDGE_KEY")
    for length in range(6, len(VALUE)):
        assert redact(f"invalid key: {VALUE[:length]}") == "invalid key: [secret JUDGE_KEY]"


@given(before=st.text(), after=st.text(), cut=st.integers(0, 60))
def test_no_text_shows_a_value(before: str, after: str, cut: int) -> None:
    secrets_module._remember("JUDGE_KEY", VALUE)
    shown = redact(f"{before}{VALUE}{after}"[:cut])
    assert VALUE not in shown
    assert not any(shown.endswith(VALUE[:length]) for length in range(6, len(VALUE)))


def test_logs_do_not_show_a_value_in_arguments_or_tracebacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", VALUE)
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    log = logging.getLogger("somebody.elses.library")
    log.addHandler(handler)
    try:
        value = secret("JUDGE_KEY")
        log.warning("sent %s", f"Bearer {value}")
        try:
            raise ValueError(f"refused: {value}")
        except ValueError:
            log.warning("failed", exc_info=True)
    finally:
        log.removeHandler(handler)
    written = stream.getvalue()
    assert VALUE not in written
    assert "sent Bearer [secret JUDGE_KEY]" in written and "ValueError: refused: [secret JUDGE_KEY]" in written


def test_records_of_another_factory_are_guarded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = logging.getLogRecordFactory()

    def with_job(*args: object, **named: object) -> logging.LogRecord:
        record = plain(*args, **named)  # type: ignore[arg-type]
        record.job = "7"
        return record

    logging.setLogRecordFactory(with_job)
    monkeypatch.setenv("JUDGE_KEY", VALUE)
    secret("JUDGE_KEY")
    secret("JUDGE_KEY")
    record = logging.getLogger().makeRecord("x", logging.INFO, "f", 1, "key %s", (VALUE,), None)
    assert record.getMessage() == "key [secret JUDGE_KEY]" and vars(record)["job"] == "7"
