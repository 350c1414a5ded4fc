"""Reasoning written from truth: short statements of what is heard, then the conclusion.

Neighbours: the `sft` stage and the base model's training use them; `rewards.functions.perceptions` parses the same
sentences back. Invariants: pure; every number lies on a grid (pitch, level, time); the last sentence is the conclusion
`So {answer}.`
"""

from __future__ import annotations

import math
from typing import Any

from rollout.messages import Question

PITCH_GRID_HZ = (131, 156, 185, 220, 262, 311, 370, 440, 523, 622, 740, 880)
LEVEL_GRID_DB = (0, -3, -6, -9, -12, -15)
TIME_STEPS_PER_S = 10
MASS_NOUNS = frozenset({"water", "glass", "rain", "wind", "thunder", "applause", "fire", "traffic", "music"})
WORDS = frozenset(
    {
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "sunday",
        "monday",
        "tuesday",
        "wednesday",
        "thursday",
        "friday",
        "saturday",
    }
)


def pitch_on_grid(pitch_hz: float) -> int:
    """Nearest grid pitch in log frequency, Hz."""
    return min(PITCH_GRID_HZ, key=lambda grid: abs(math.log(grid / pitch_hz)))


def level_on_grid(level_db: float) -> int:
    """Nearest grid level, dB relative to the loudest."""
    return min(LEVEL_GRID_DB, key=lambda grid: abs(grid - level_db))


def seconds_on_grid(seconds: float) -> str:
    """Time with one decimal, as chains write it."""
    return f"{math.floor(seconds * TIME_STEPS_PER_S + 0.5) / TIME_STEPS_PER_S:.1f}"


def with_article(kind: str) -> str:
    """`a dog`, `an owl`; spoken words and mass nouns have no article."""
    if kind in WORDS or kind in MASS_NOUNS:
        return kind
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def perceptions(question: Question) -> str:
    """The statements without the conclusion. Raises ValueError for a task without a template."""
    events: list[dict[str, Any]] = question.truth["events"]
    task = question.task
    if task in ("word", "source", "instrument"):
        return f"I hear {with_article(events[0]['kind'])}."
    if task == "order":
        return f"I hear {', then '.join(with_article(e['kind']) for e in events)}."
    if task == "count":
        return f"Events at {', '.join(seconds_on_grid(e['start_s']) + ' s' for e in events)}."
    if task == "louder":
        return " ".join(f"Level {i} is about {level_on_grid(e['level_db'])} dB." for i, e in enumerate(events, 1))
    if task == "higher":
        return " ".join(f"Note {i} is about {pitch_on_grid(e['pitch_hz'])} Hz." for i, e in enumerate(events, 1))
    if task == "melody":
        pitches = ", ".join(f"{pitch_on_grid(e['pitch_hz'])} Hz" for e in events)
        return f"Notes of about {pitches}."
    if task == "longer":
        return " ".join(
            f"Sound {i} lasts {seconds_on_grid(e['end_s'] - e['start_s'])} s." for i, e in enumerate(events, 1)
        )
    if task == "tempo":
        return f"One beat every {seconds_on_grid(question.truth['beat_s'])} s."
    raise ValueError(f"no chain template for task {task!r} of question {question.id!r}")


def chain(question: Question) -> str:
    """Perceptions and conclusion, as they stand between `<think>` and `</think>`."""
    return f"{perceptions(question)} So {question.answer}."
