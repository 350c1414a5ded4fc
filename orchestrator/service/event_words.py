"""Events in words, a line each: for terminals and the driver's log.

Neighbours: `mgrd events` and its like print them, `observer` logs them. Pure. Invariant: whoever wants every figure reads the event's data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FIGURES = (  # of a policy update: metric, name, form
    ("reward/mean", "reward", "{:.3f}"),
    ("accuracy", "accuracy", "{:.3f}"),
    ("think/tokens", "think tokens", "{:.1f}"),
    ("invalid_share", "invalid", "{:.1%}"),
    ("generated_tokens_per_second", "tokens/s", "{:,.0f}"),
)
REASON_CHARACTERS = 160


def in_words(kind: str, data: Mapping[str, Any]) -> str:
    """What an event of this kind says; unknown kinds as `key value, key value`."""
    if kind == "state":
        reason = str(data.get("reason") or "").strip().split("\n", 1)[0]
        if len(reason) > REASON_CHARACTERS:
            reason = f"{reason[: REASON_CHARACTERS - 1]}…"
        return f"{data.get('before', '')} → {data.get('state', '')}{': ' if reason else ''}{reason}"
    if kind == "stage":
        seconds = data.get("seconds")
        return f"{data.get('stage', '')} {data.get('state', '')}{'' if seconds is None else f' after {seconds:.0f} s'}"
    if kind == "update" and "metrics" in data:
        return update_in_words(data)
    if kind == "note":
        return " ".join(str(data[key]) for key in ("text", "mlflow_url") if data.get(key))
    return ", ".join(f"{key} {_text(value)}" for key, value in data.items() if value not in (None, "", {}, []))


def update_in_words(record: Mapping[str, Any]) -> str:
    """`5 of t1.reinforce: reward 0.864, accuracy 0.820, think tokens 15.7, invalid 0.0%, tokens/s 4,295`: what of it was measured."""
    metrics: Mapping[str, float] = record["metrics"]
    figures = [f"{name} {form.format(metrics[key])}" for key, name, form in FIGURES if metrics.get(key) is not None]
    return f"{record.get('update', '')} of {record.get('stage', '')}: {', '.join(figures)}"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} {_text(v)}" for k, v in value.items()) + "}"
    return str(value)
