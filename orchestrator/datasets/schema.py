"""One line of a data set and what makes it wrong.

Neighbours: `jsonl` reads files with it; `rollout.messages.Question` is what a good line becomes.
Invariants: pure (no file is opened); every fault of a line is found, not only the first; a message says what to change.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import MgrdError
from rewards import reference_faults
from rollout.messages import AnswerKind, AudioRef, Question
from rollout.prompts import ROLES

SHOWN = 100  # problems spelled out in a message; the rest is counted


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a data set. line: from 1; 0 when it is about the whole file."""

    file: Path
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}" if self.line else f"{self.file}: {self.message}"


class DataError(MgrdError):
    """A data set cannot be read or built. `problems` holds every fault by file and line; the message spells them out."""

    def __init__(self, message: str, problems: Iterable[Problem] = ()) -> None:
        self.problems = tuple(problems)
        lines = [message, *(f"  {problem}" for problem in self.problems[:SHOWN])]
        if len(self.problems) > SHOWN:
            lines.append(f"  and {len(self.problems) - SHOWN} more")
        super().__init__("\n".join(lines))


_FIELDS = {f.name: f for f in dataclasses.fields(Question)}
_REQUIRED = tuple(name for name, f in _FIELDS.items() if f.default is f.default_factory is dataclasses.MISSING)
_TEXT = ("id", "prompt", "answer", "domain", "task", "split", "source", "rubric", "dataset")
_AUDIO = tuple(f.name for f in dataclasses.fields(AudioRef))
_KINDS = tuple(kind.value for kind in AnswerKind)


def check_record(record: object) -> list[str]:
    """Faults of one decoded line; [] means `question_of` accepts it."""
    if not isinstance(record, dict):
        return ["a line must be one JSON object"]
    faults = [unknown_field(name, _FIELDS) for name in record if name not in _FIELDS]
    faults += [f"field '{name}' is missing" for name in _REQUIRED if name not in record]
    for name in _TEXT:
        value = record.get(name, "")
        if not isinstance(value, str):
            faults.append(f"field '{name}' must be text, not {type(value).__name__}")
        elif name in record and name in _REQUIRED and not value.strip():
            faults.append(f"field '{name}' is empty")
    if not isinstance(record.get("truth", {}), dict):
        faults.append("field 'truth' must be an object")
    else:
        faults += _check_events(record.get("truth", {}).get("events", []))
    faults += _check_audio(record.get("audio", []))
    faults += _check_history(record.get("history", []))
    return faults + _check_answer(record)


def question_of(record: Mapping[str, Any]) -> Question:
    """The question of a record without faults; clips may lack digest and length (`AudioRef` with '' and 0)."""

    def filled(part: Mapping[str, Any]) -> dict[str, Any]:
        return {**part, "audio": [{"sha256": "", "seconds": 0.0} | clip for clip in part.get("audio", ())]}

    history = [filled(turn) for turn in record.get("history", ())]
    return Question.from_dict(filled(record) | {"history": history})


def unknown_field(name: str, known: Iterable[str]) -> str:
    """The fault of a field that nobody knows, with the nearest known name."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"unknown field '{name}'" + (f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(known)}")


def _check_events(events: object) -> list[str]:
    """What a reasoning is checked against: `kind`, `start_s`, `end_s`, and `pitch_hz` and `level_db` where they are known."""
    if not isinstance(events, list):
        return ["'events' of 'truth' must be a list"]
    faults = []
    for number, event in enumerate(events, 1):
        where = f"event {number} of 'truth'"
        if not isinstance(event, dict):
            faults.append(f"{where} must be an object with 'kind', 'start_s' and 'end_s'")
            continue
        if not isinstance(event.get("kind"), str) or not event["kind"].strip():
            faults.append(f"{where}: 'kind' must be text that is not empty")
        faults += [
            f"{where}: '{name}' must be a number of seconds"
            for name in ("start_s", "end_s")
            if not _is_number(event.get(name))
        ]
        faults += [
            f"{where}: '{name}' must be a number or null"
            for name in ("pitch_hz", "level_db")
            if event.get(name) is not None and not _is_number(event[name])
        ]
    return faults


def _check_audio(clips: object) -> list[str]:
    if not isinstance(clips, list):
        return ["field 'audio' must be a list of clips"]
    faults = []
    for number, clip in enumerate(clips, 1):
        if not isinstance(clip, dict) or not isinstance(clip.get("path"), str) or not clip["path"]:
            faults.append(f"clip {number} must be an object with a 'path'")
            continue
        faults += [f"clip {number}: {unknown_field(name, _AUDIO)}" for name in clip if name not in _AUDIO]
        if not isinstance(clip.get("sha256", ""), str):
            faults.append(f"clip {number}: 'sha256' must be text")
        if not _is_number(clip.get("seconds", 0.0)) or clip.get("seconds", 0.0) < 0:
            faults.append(f"clip {number}: 'seconds' must be a number of 0 or more")
    return faults


def _check_history(turns: object) -> list[str]:
    if not isinstance(turns, list):
        return ["field 'history' must be a list of turns"]
    faults = []
    for number, turn in enumerate(turns, 1):
        named = isinstance(turn, dict) and {"role", "text"} <= set(turn) <= {"role", "text", "audio"}
        if not named or not isinstance(turn["text"], str):
            faults.append(
                f"turn {number} of 'history' must be an object with 'role', 'text' and, if it has clips, 'audio'"
            )
            continue
        if turn["role"] not in ROLES:
            faults.append(f"turn {number} of 'history': role {turn['role']!r} is none of {', '.join(ROLES)}")
        faults += [f"turn {number} of 'history': {fault}" for fault in _check_audio(turn.get("audio", []))]
    return faults


def _check_answer(record: Mapping[str, Any]) -> list[str]:
    kind, answer, choices = record.get("answer_kind"), record.get("answer"), record.get("choices", [])
    tolerance = record.get("tolerance", 0.0)
    faults = []
    if "answer_kind" in record and kind not in _KINDS:
        faults.append(f"answer_kind {kind!r} is none of {', '.join(_KINDS)}")
    if not _is_number(tolerance) or tolerance < 0:
        faults.append("field 'tolerance' must be a number of 0 or more")
    if not isinstance(choices, list) or not all(isinstance(c, str) and c.strip() for c in choices):
        return [*faults, "field 'choices' must be a list of texts that are not empty"]
    if len(set(choices)) != len(choices):
        faults.append("two choices are the same")
    if kind in _KINDS and isinstance(answer, str) and answer.strip():
        faults += reference_faults(kind, answer, choices)
    return faults


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
