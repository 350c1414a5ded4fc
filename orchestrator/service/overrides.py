"""Values of Python as overrides of a configuration: `{"actor.actor_optim.lr": 1e-6}` as `actor.actor_optim.lr=1e-06` (pure).

Neighbours: `calls` builds requests of them; the server composes them as `mgrd run` does. Invariant: what is read back is the value that
was given; text is handed over as typed on a command line, in quotes only where it would be read as something else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile

from orchestrator.errors import ConfigError

Scalar = bool | int | float | str | None
Value = Scalar | Sequence["Value"] | Mapping[str, "Value"]
Overrides = Mapping[str, Value] | Iterable[str]
PLAIN = re.compile(r"[A-Za-z0-9_/.@%+*-]([A-Za-z0-9_/.@%+* :-]*[A-Za-z0-9_/.@%+*:-])?")


def as_overrides(experiment: str, overrides: Overrides) -> list[str]:
    """`("demo", {"run.seed": 7})` → `["experiment=demo", "run.seed=7"]`; texts `key=value` are taken as they are.

    Raises ConfigError for a value that no configuration can hold, or text without "=".
    """
    found = [f"experiment={experiment}"] if experiment else []
    if isinstance(overrides, str):
        raise ConfigError(f"{overrides!r}: give a list of overrides, or a mapping of keys to values")
    if isinstance(overrides, Mapping):
        return found + [f"{key}={as_text(value)}" for key, value in overrides.items()]
    texts = list(overrides)
    for text in texts:
        if "=" not in text and not text.startswith("~"):
            raise ConfigError(f"{text!r} is no override; write key=value, for example run.seed=7")
    return found + texts


def as_text(value: Value) -> str:
    """One value in the grammar of overrides."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else _not_finite(value)
    if isinstance(value, str):
        return value if PLAIN.fullmatch(value) else _quoted(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_inner(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ",".join(_inner(item) for item in value) + "]"
    raise ConfigError(f"{value!r} ({type(value).__name__}) can't stand in a configuration; give text, numbers, lists")


def grid_of(texts: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Overrides as typed for a sweep → (those that hold for all, the swept ones by key): `run.seed=1,2,3` is swept, `a=[1,2]` is not.

    Raises ConfigError for a value that is missing between commas.
    """
    fixed: list[str] = []
    grid: dict[str, list[str]] = {}
    for text in as_overrides("", texts):
        key, sign, value = text.partition("=")
        values = _split(value)
        if not sign or len(values) == 1:
            fixed.append(text)
            continue
        if not all(values):
            raise ConfigError(f"{text!r}: a value is missing between two commas")
        grid[key] = values
    return fixed, grid


def _inner(value: Value) -> str:
    """Inside a list or mapping text is quoted always: a comma or colon there ends it."""
    return _quoted(value) if isinstance(value, str) else as_text(value)


def _quoted(text: str) -> str:
    """In single quotes: a quote inside is escaped, and so are the backslashes before one or at the end."""
    parts = text.split("'")
    return "'" + "\\'".join(_doubled(part) for part in parts) + "'"


def _doubled(text: str) -> str:
    trailing = sum(1 for _ in takewhile(lambda letter: letter == "\\", reversed(text)))
    return text + "\\" * trailing


def _not_finite(value: float) -> str:
    return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"


def _split(text: str) -> list[str]:
    """At commas outside of brackets and quotes."""
    parts, depth, quote, start = [], 0, "", 0
    for place, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote and text[place - 1] != "\\" else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "[{(":
            depth += 1
        elif letter in "]})":
            depth -= 1
        elif letter == "," and not depth:
            parts.append(text[start:place])
            start = place + 1
    return [*parts, text[start:]]
