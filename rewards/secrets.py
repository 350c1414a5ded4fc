"""Secrets by name: from the environment or a store file, never from a configuration or from source.

Neighbours: `endpoints.runner` looks up what endpoint terms name, the scorer what sandboxed functions declare; both pass what they
report through `redact`. Invariants: a value that was handed out never shows in this process's logs, and in no text that went
through `redact`; messages name the secret, never its value; a store file that others can read is refused.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import stat
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rewards.errors import RewardError

STORE_VARIABLE = "MGRD_SECRETS"
DEFAULT_STORE = Path("~/.config/mgrd/secrets.toml")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SHORTEST = 8  # characters; a shorter value would be struck out of harmless text, and is no secret worth the name
TELLING = 6  # characters at the start of a value that are struck out where a text was cut inside it

_known: dict[str, str] = {}  # every written form of a value that was handed out -> the secret's name
_pattern: re.Pattern[str] | None = None


def store_path() -> Path:
    """The secret store of this process: `MGRD_SECRETS`, else ~/.config/mgrd/secrets.toml."""
    return Path(os.environ.get(STORE_VARIABLE) or DEFAULT_STORE).expanduser()


def secret(name: str) -> str:
    """The value of a secret; the environment comes before the store. From then on it is struck out of logs and by `redact`.

    Raises RewardError naming the secret and both places when it is missing, and for a store or value that can't be used.
    """
    if not NAME.fullmatch(name):
        raise RewardError(f"{name[:40]!r} is not the name of a secret; give letters, digits and underscores")
    value = os.environ.get(name, "").strip()
    if not value:
        value = _stored(name)
    if len(value) < SHORTEST or not (value.isascii() and value.isprintable()):
        raise RewardError(
            f"the value of the secret {name!r} can't be used: it must be {SHORTEST} or more printable ASCII characters"
        )
    _remember(name, value)
    return value


def gather(names: Iterable[str]) -> dict[str, str]:
    """Values by name. Raises RewardError for the first that can't be had."""
    return {name: secret(name) for name in names}


def redact(text: str) -> str:
    """The text without the values handed out so far: as they are, quoted for a URL or JSON, in base64, or cut at its end."""
    if _pattern is None or not text:
        return text
    text = _pattern.sub(lambda match: f"[secret {_known[match.group()]}]", text)
    for value, name in _known.items():
        for length in range(min(len(value) - 1, len(text)), TELLING - 1, -1):
            if text.endswith(value[:length]):
                return f"{text[:-length]}[secret {name}]"
    return text


class GuardedRecord(logging.LogRecord):
    """A log record whose message and traceback go through `redact`, whichever handler writes it."""

    def getMessage(self) -> str:
        return redact(super().getMessage())

    @property
    def exc_text(self) -> str | None:
        return self.__dict__.get("exc_text")

    @exc_text.setter
    def exc_text(self, text: str | None) -> None:
        self.__dict__["exc_text"] = redact(text) if text else text


def guard_logs() -> None:
    """Makes every log record of this process a guarded one, on top of whatever makes records now. May be called again."""
    make = logging.getLogRecordFactory()
    if getattr(make, "guarded", False):
        return

    def guarded(*args: Any, **named: Any) -> logging.LogRecord:
        record = make(*args, **named)
        if type(record) is logging.LogRecord:
            record.__class__ = GuardedRecord
        return record

    guarded.guarded = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(guarded)


def _remember(name: str, value: str) -> None:
    global _known, _pattern
    guard_logs()
    encoded = base64.b64encode(value.encode()).decode().rstrip("=")
    forms = {value, quote(value, safe=""), json.dumps(value)[1:-1], encoded}
    if not forms <= _known.keys():
        _known = _known | dict.fromkeys(forms, name)
        _pattern = re.compile("|".join(re.escape(form) for form in sorted(_known, key=len, reverse=True)))


def _stored(name: str) -> str:
    path = store_path()
    missing = RewardError(
        f"the secret {name!r} is missing: set the environment variable {name}, or add {name} = \"…\" to {path} "
        f"(TOML, readable by you alone; {STORE_VARIABLE} names another file)"
    )  # fmt: skip
    try:
        with path.open("rb") as file:
            _check_private(path, os.fstat(file.fileno()))
            entries = tomllib.load(file)
    except FileNotFoundError:
        raise missing from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):  # the message may quote the line
        raise RewardError(f"the secret store {path} is not TOML; write one NAME = \"value\" a line") from None  # fmt: skip
    except OSError as error:
        raise RewardError(f"the secret store {path} can't be read: {error.strerror}") from error
    value = entries.get(name)
    if value is None:
        raise missing
    if not isinstance(value, str):
        raise RewardError(f"the secret {name!r} in {path} is {type(value).__name__}, not text; put it in quotes")
    return value.strip()


def _check_private(path: Path, status: os.stat_result) -> None:
    if status.st_uid not in (os.getuid(), 0):
        raise RewardError(f"the secret store {path} belongs to another user; keep your secrets in a file of your own")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise RewardError(f"the secret store {path} can be read by others; run `chmod 600 {path}`")
