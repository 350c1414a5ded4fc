"""What a reward function returned or raised, made plain: a finite score with parts and notes, or a reason.

Neighbours: `sandbox_calls` calls the functions. Invariants: the values that leave here are exact built-in types, cut to length,
whatever clever objects a function made; nothing foreign runs later on.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from rewards.messages import Verdict
from rewards.sandbox_wire import MAX_NOTES, MAX_PARTS, MAX_REASON

SCORE = "score"


class Returned(NamedTuple):
    """A finite score, or a reason why there is none; parts: what was reported beside it; notes: its text."""

    score: float | None
    reason: str = ""
    parts: Mapping[str, float] = MappingProxyType({})
    notes: str = ""


class NoScore(Exception):
    """There is no score; the text is the reason as it stands."""


def returned(value: Any) -> Returned:
    """Reads a return value: a number, a Verdict, a dict with "score", None. Other things become reasons, as does what reading
    the value raises."""
    try:
        if value is None:
            return Returned(None, "returned None")
        if isinstance(value, Verdict):
            return _of_verdict(value)
        if isinstance(value, Mapping):
            return _of_dict(value)
        return Returned(_number(value, ""))
    except BaseException as error:  # noqa: BLE001  a foreign object's own methods
        return Returned(None, raised(error))


def raised(error: BaseException) -> str:
    """`raised ValueError: text`, cut to length; the text itself may fail. Of NoScore, its text."""
    if type(error) is NoScore:
        return str(error)
    try:
        text = _plain(str(error), MAX_REASON)
    except BaseException:  # noqa: BLE001  foreign code: an exception's __str__
        text = "(its message can't be read)"
    kind = _plain(type.__getattribute__(type(error), "__name__"), MAX_REASON)
    return f"raised {kind}: {text}" if text else f"raised {kind}"


def _of_verdict(verdict: Verdict) -> Returned:
    parts = _parts(verdict.components)
    notes = [(_plain(name, MAX_REASON), _plain(text, MAX_NOTES)) for name, text in verdict.notes.items()]
    text = notes[0][1] if len(notes) == 1 else "\n".join(f"{name}: {text}" for name, text in notes)[:MAX_NOTES]
    if not verdict.valid:
        return Returned(None, _plain(verdict.reason, MAX_REASON) or "gave no reason", parts, text)
    return Returned(_number(verdict.score, "a verdict with the score "), "", parts, text)


def _of_dict(value: Mapping[Any, Any]) -> Returned:
    if SCORE not in value:
        raise NoScore(f'returned a dict without "{SCORE}"')
    return Returned(_number(value[SCORE], "a dict with the score "), "", _parts(value))


def _parts(value: Mapping[Any, Any]) -> dict[str, float]:
    """All but the score."""
    parts = {_plain(name, MAX_REASON): number for name, number in value.items() if name != SCORE}
    if len(parts) > MAX_PARTS:
        raise NoScore(f"returned {len(parts)} scores, more than {MAX_PARTS}")
    return {name: _number(number, f"a part {name!r} that is ") for name, number in parts.items()}


def _number(value: Any, before: str) -> float:
    """A finite float; arrays of no dimension (of numpy, of torch) count as what they hold."""
    if not isinstance(value, numbers.Real) and getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if not isinstance(value, numbers.Real):
        raise NoScore(f"returned {before}{_plain(type(value).__name__, MAX_REASON)}, not a number")
    number = float(value)
    if not math.isfinite(number):
        raise NoScore(f"returned {before}{number}, not a finite number")
    return number


def _plain(text: Any, length: int) -> str:
    """An exact str of at most this many characters."""
    if not isinstance(text, str):
        raise NoScore(f"returned {type(text).__name__} where text belongs")
    return "".join((str.__getitem__(text, slice(length)),))
