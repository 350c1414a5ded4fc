"""Numbers that JSON has no word for.

Neighbours: everything that writes a report. Invariant: what comes out is read back by any JSON reader.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any


def plain(value: Any, other: Callable[[float], Any] = lambda _: None) -> Any:
    """The same value with None (or what `other` makes of it) for nan and infinities, tuples as lists."""
    if isinstance(value, Mapping):
        return {key: plain(item, other) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, other) for item in value]
    return other(value) if isinstance(value, float) and not math.isfinite(value) else value
