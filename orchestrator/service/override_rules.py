"""Which overrides the service takes from users (pure): narrower than what Hydra's grammar allows.

Neighbours: `intake` asks before anything is composed. Invariant: a key that the service sets itself, an interpolation, a sweep, a change
of the list of groups and a file outside `conf/` are refused by the override's text; none of them ever reaches Hydra.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from orchestrator.config.compose import CONF_DIR
from orchestrator.config.named import ENTRIES
from orchestrator.errors import ConfigError

MAX_OVERRIDES = 200  # an experiment has about 200 keys
MAX_CHARS = 4_000  # of one override: a long list of strings
KEY = re.compile(r"~?[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_][A-Za-z0-9_-]*)*")
OPTION = re.compile(r"[A-Za-z0-9_-]{1,64}")
INTERPOLATION = re.compile(r"\$\\*\{")  # `$\{` is one, too, once Hydra has taken the backslash away
CONTROL = re.compile(r"[\x00-\x1f\x7f\u2028\u2029\ud800-\udfff]")
OWNED = {
    "cluster": "the service knows where Ray, Redis and MLflow are",
    "run.dir": "the service gives every experiment its own folder",
    "run.resume": "use resume to go on with an experiment",
    "reward.store": "the service's own registry of rewards is used",
}


class IntakeRefused(ConfigError):
    """What was submitted can't be run. field: where in the request; hint: what to do, "" where the message says it."""

    def __init__(self, field: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.field, self.hint = field, hint


def check_overrides(overrides: Sequence[str], field: str = "overrides") -> None:
    """Raises IntakeRefused for the first one that is not taken."""
    if len(overrides) > MAX_OVERRIDES:
        raise IntakeRefused(field, f"{len(overrides)} overrides, the limit is {MAX_OVERRIDES}")
    for index, override in enumerate(overrides):
        _check(override, f"{field}[{index}]")


def is_group(override: str) -> bool:
    """`experiment=demo`, `model=tiny`: chooses a file of `conf/`."""
    key = override.partition("=")[0]
    return KEY.fullmatch(key) is not None and (CONF_DIR / key).is_dir()


def _check(override: str, field: str) -> None:
    shown = repr(override if len(override) <= 100 else override[:97] + "...")
    if len(override) > MAX_CHARS:
        raise IntakeRefused(field, f"{shown} has {len(override)} characters, the limit is {MAX_CHARS}")
    if CONTROL.search(override):
        raise IntakeRefused(field, f"{shown} holds a control character", "write it in one line")
    key, sign, value = override.partition("=")
    if key.startswith("+"):
        raise IntakeRefused(field, f"{shown}: keys can't be added with +", "leave the + away")
    if key.partition(".")[0].lstrip("~") == "hydra":
        raise IntakeRefused(field, f"{shown}: Hydra's own keys can't be set", "leave it away")
    if INTERPOLATION.search(override):
        raise IntakeRefused(field, f"{shown}: interpolations (${{…}}) are not taken", "write the value itself")
    if not KEY.fullmatch(key) or not (sign or key.startswith("~")):
        raise IntakeRefused(field, f"{shown} is no override", "write key=value, for example run.seed=7")
    if key.startswith("~"):
        if not key[1:].startswith(tuple(ENTRIES)):
            raise IntakeRefused(
                field, f"{shown} deletes nothing: only entries such as reward.terms.NAME can be deleted"
            )
        return
    if is_group(override) and key not in OWNED and not OPTION.fullmatch(value):
        raise IntakeRefused(field, f"{shown}: {key} is a group, choose one of its files by name", _options(key))
    _check_owned((key,), shown, field)
    _check_value(key, override, shown, field)


def _check_value(key: str, override: str, shown: str, field: str) -> None:
    try:
        parsed: Override = OverridesParser.create().parse_override(override)
        if parsed.is_sweep_override():
            raise IntakeRefused(
                field, f"{shown} has several values", "give one, in quotes if it holds a comma; or submit a sweep"
            )
        value: Any = parsed.value()
    except HydraException as error:
        said = str(error).strip().splitlines()[0]
        raise IntakeRefused(
            field, f"{shown} can't be read: {said}", "put text with special characters in quotes"
        ) from error
    if any(INTERPOLATION.search(text) for text in _texts(value)):
        raise IntakeRefused(field, f"{shown}: interpolations (${{…}}) are not taken", "write the value itself")
    _check_owned(tuple(_keys(key, value)), shown, field)


def _check_owned(keys: Sequence[str], shown: str, field: str) -> None:
    for key in keys:
        for owned, why in OWNED.items():
            if key == owned or key.startswith(f"{owned}."):
                raise IntakeRefused(field, f"{shown}: {key} is set by the service: {why}", "leave it away")


def _keys(key: str, value: Any) -> Iterator[str]:
    """`run`, {"dir": …} → run, run.dir"""
    yield key
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _keys(f"{key}.{name}", item)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield str(name)
            yield from _texts(item)
    elif isinstance(value, Sequence):
        for item in value:
            yield from _texts(item)


def _options(group: str) -> str:
    return f"{group} is one of: {', '.join(sorted(path.stem for path in (CONF_DIR / group).glob('*.yaml')))}"
