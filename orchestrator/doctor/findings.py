"""What a check says.

Neighbours: every module of `doctor` makes them, `command` shows them. Invariant: what is not `ok` says what to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"  # it works, worse than it could, or not for everything
    FAIL = "fail"  # something will not work


@dataclass(frozen=True, slots=True)
class Finding:
    """name: of the check; found: what is; advice: what to do, "" for ok."""

    name: str
    level: Level
    found: str
    advice: str = ""

    def __post_init__(self) -> None:
        if (self.level is Level.OK) == bool(self.advice):
            raise ValueError(f"{self.name}: a finding has advice exactly when it is not ok")


def ok(name: str, found: str) -> Finding:
    return Finding(name, Level.OK, found)


def warn(name: str, found: str, advice: str) -> Finding:
    return Finding(name, Level.WARN, found, advice)


def fail(name: str, found: str, advice: str) -> Finding:
    return Finding(name, Level.FAIL, found, advice)


def worst(findings: Iterable[Finding]) -> Level:
    order = list(Level)
    return max((finding.level for finding in findings), key=order.index, default=Level.OK)
