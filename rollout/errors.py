"""What can go wrong while generating, by whose fault it is.

Neighbours: raised by `engine`, carried through Ray by `worker`, acted on by `pool`.
Invariant: every message says what happened, where, and (if somebody can do something) what to do.
"""

from __future__ import annotations


class EngineDied(RuntimeError):
    """An engine cannot go on; its owner starts another."""


class RequestRefused(RuntimeError):
    """One question cannot be generated; the engine and the other questions are well."""


class WeightsRefused(RuntimeError):
    """A weight update did not pass its checks; the engine still runs the old weights."""


class WeightsLost(WeightsRefused):
    """A weight update did not pass its checks when a part of it was loaded already; the engine must be given a whole version before it
    generates again."""


class StaleTrajectory(RuntimeError):
    """A worker answered with another version of the weights than the pool runs."""


def reason(error: BaseException) -> str:
    """An error and its causes in one line; vLLM's EngineGenerateError is empty and keeps the reason as its cause."""
    parts: list[str] = []
    current: BaseException | None = error
    while current is not None:
        text = " ".join(str(current).split())
        if text and not any(text in part for part in parts):
            parts.append(f"{type(current).__name__}: {text}")
        current = current.__cause__
    return " <- ".join(parts) or type(error).__name__
