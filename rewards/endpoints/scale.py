"""The levels a judge chooses from, the scalar each stands for, and the strict reading of its answer.

Neighbours: `judging` asks and averages; the prompt templates show the levels. Invariants: pure; an answer either names exactly one
level in the form that was asked for, or it is unreadable (ValueError with the reason), never a guess.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FORMS = ("line", "json", "schema")  # last line `LEVEL: x`; one JSON object; the same, enforced by the server
MARK = "LEVEL:"
THOUGHT_END = "</think>"
DEFAULT_MEANINGS = {
    "1": "wrong, or no answer to the question",
    "2": "mostly wrong; something in it points the right way",
    "3": "half right: an important part is missing or wrong",
    "4": "right in what matters, with a small slip or omission",
    "5": "right and complete",
}


@dataclass(frozen=True, slots=True)
class Level:
    """label: as the judge writes it; score: the scalar it stands for; meaning: shown to the judge ("" nothing)."""

    label: str
    score: float
    meaning: str = ""


@dataclass(frozen=True, slots=True)
class Judgement:
    """One answer that could be read."""

    level: Level
    rationale: str


def make_levels(
    levels: Mapping[Any, Any] | Sequence[Any] | None, meanings: Mapping[Any, str] | None = None
) -> tuple[Level, ...]:
    """The levels, lowest score first.

    levels: None for 1 to 5 on 0 to 1; labels, worst first, spread evenly over 0 to 1; or the score of each label.
    Raises ValueError for fewer than two, labels that can't be told apart, scores that are not finite, or meanings of no level.
    """
    if levels is None:
        levels, meanings = tuple(DEFAULT_MEANINGS), meanings or DEFAULT_MEANINGS
    if isinstance(levels, str) or not isinstance(levels, (Mapping, Sequence)):
        raise ValueError(f"levels are a list of labels or a score for each label, not {type(levels).__name__}")
    if isinstance(levels, Mapping):
        scores = {str(label).strip(): score for label, score in levels.items()}
    else:
        scores = {str(label).strip(): i / max(1, len(levels) - 1) for i, label in enumerate(levels)}
    if len(scores) < max(2, len(levels)) or len({label.casefold() for label in scores}) < len(scores):
        raise ValueError(f"levels need two labels or more, no two alike, got {list(levels)}")
    for label, score in scores.items():
        if not label.isprintable() or not label or MARK.casefold() in label.casefold():
            raise ValueError(f"{label!r} can't be the label of a level")
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
            raise ValueError(f"level {label!r} stands for {score!r}, which is no finite number")
    said = {str(label).strip(): str(meaning) for label, meaning in (meanings or {}).items()}
    strangers = sorted(set(said) - set(scores))
    if strangers:
        raise ValueError(f"meanings of {strangers[0]!r}, which is no level; levels: {', '.join(scores)}")
    made = [Level(label, float(score), said.get(label, "")) for label, score in scores.items()]
    return tuple(sorted(made, key=lambda level: level.score))


def read_answer(content: str, levels: Sequence[Level], form: str) -> Judgement:
    """The level an answer names. Raises ValueError when it is not exactly of the form that was asked for."""
    return _read_line(content, levels) if form == "line" else _read_json(content, levels)


def answer_schema(levels: Sequence[Level]) -> dict[str, Any]:
    """JSON schema of an answer, the rationale before the level so that it is thought before it is given."""
    return {
        "type": "object",
        "properties": {
            "rationale": {"type": "string"},
            "level": {"type": "string", "enum": [level.label for level in levels]},
        },
        "required": ["rationale", "level"],
        "additionalProperties": False,
    }


def _read_line(content: str, levels: Sequence[Level]) -> Judgement:
    lines = content.strip().splitlines() or [""]
    named = {line.strip() for line in lines if line.strip().startswith(MARK)}
    last = lines[-1].strip()
    if not last.startswith(MARK):
        raise ValueError(f"its last line is not `{MARK} …`")
    if len(named) > 1:
        raise ValueError("it names several levels")
    return Judgement(_level(last.removeprefix(MARK), levels), "\n".join(lines[:-1]).strip())


def _read_json(content: str, levels: Sequence[Level]) -> Judgement:
    thought, _, body = content.rpartition(THOUGHT_END)
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError("it is not one JSON object") from error
    if not isinstance(answer, dict) or not {"level"} <= answer.keys() <= {"level", "rationale"}:
        raise ValueError('it is not a JSON object of "level" and "rationale"')
    level, rationale = answer["level"], answer.get("rationale", "")
    if isinstance(level, bool) or not isinstance(level, (str, int)) or not isinstance(rationale, str):
        raise ValueError("its level or rationale is of the wrong type")
    return Judgement(_level(str(level), levels), rationale.strip() or thought.strip())


def _level(said: str, levels: Sequence[Level]) -> Level:
    for level in levels:
        if level.label.casefold() == said.strip().casefold():
            return level
    raise ValueError(f"{said.strip()[:40]!r} is none of the levels {', '.join(level.label for level in levels)}")
