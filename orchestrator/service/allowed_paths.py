"""Which files a configuration from a user may name: below an allowed folder, in the code that travels with it, or on the hub.

Neighbours: `intake` asks for every configuration, the API before it hands out a recording. Invariants: links are followed before a path
is judged; what can't be judged is refused. Reads the file system, opens nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from orchestrator.config.schema import ExperimentConfig

HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
DATA_PATHS = ("dir", "train", "held_out", "text_train", "text_held_out", "conversations", "feature_dir")
LOOKS_LIKE_A_PATH = re.compile(r"[/~\\]|file:|.*(^|[/\\])\.\.([/\\]|$)", re.IGNORECASE)


def outside(config: ExperimentConfig, roots: Sequence[Path], *, code: bool) -> tuple[str, str] | None:
    """(key, why) of the first path that is not allowed. code: relative paths name files of the user's code."""
    for key, value, hub in _named(config):
        why = why_not(value, roots, code=code, hub=hub)
        if why:
            return key, why
    return None


def why_not(value: str, roots: Sequence[Path], *, code: bool = False, hub: bool = False) -> str:
    """Why a path can't be used, "" when it can. hub: `owner/name` of the hub will do."""
    if not value or (hub and HUB_ID.fullmatch(value)):
        return ""
    if "\x00" in value or value.startswith("~") or "://" in value:
        return f"{value!r} is no path of a file; give an absolute path"
    path = PurePosixPath(value)
    if ".." in path.parts:
        return f"{value!r} leads out of its folder; give the path without .."
    if not path.is_absolute():
        return (
            "" if code else f"{value!r} is relative to nothing; give an absolute path, or send the file with the code"
        )
    return (
        "" if inside(Path(value), roots) else f"{value} is outside the folders that experiments may use{_list(roots)}"
    )


def inside(path: Path, roots: Sequence[Path]) -> bool:
    """Whether `path`, links followed, is one of the folders or below one."""
    try:
        real = path.resolve()
        return any(real.is_relative_to(root.resolve()) for root in roots)
    except (OSError, RuntimeError, ValueError):  # a loop of links, a name that is too long
        return False


def _named(config: ExperimentConfig) -> Iterator[tuple[str, str, bool]]:
    """(key, path, may be a hub id)"""
    yield "model.path", config.model.path, True
    for name in DATA_PATHS:
        yield f"data.{name}", getattr(config.data, name), False
    for name, term in config.reward.terms.items():
        yield from _parameters(f"reward.terms.{name}.parameters", term.parameters)
    yield from _parameters("pipeline.distil.judge.parameters", config.pipeline.distil.judge.parameters)


def _parameters(key: str, value: Any) -> Iterator[tuple[str, str, bool]]:
    """Texts that look like paths: what a reward does with its parameters is its own affair, so any of them might be opened."""
    if isinstance(value, str):
        if LOOKS_LIKE_A_PATH.match(value):
            yield key, value, False
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _parameters(f"{key}.{name}", item)
    elif isinstance(value, Sequence):
        for index, item in enumerate(value):
            yield from _parameters(f"{key}[{index}]", item)


def _list(roots: Sequence[Path]) -> str:
    return f": {', '.join(map(str, roots))}" if roots else ""
