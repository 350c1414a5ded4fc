"""Samples from what people and programs write: three forms of one JSON object, told apart by their fields.

`{"question": {…}, "response": "<think>…"}` as in golden cases; a `Sample` with all its fields; a stored trajectory
`{"sample", "verdict"}`. Neighbours: `lab` reads files of them, `http` requests. Invariant: a bad one is refused with the field.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import msgspec

from rewards.clips import recordings
from rewards.errors import RewardError
from rewards.golden import QUESTION_DEFAULTS, sample_of
from rewards.messages import Sample

WRITTEN = frozenset({"question", "response", "finished", "reasoning_tokens", "id"})
WHOLE = frozenset(field.name for field in fields(Sample))
NAMES = {str: "text", Mapping: "an object", dict: "an object", list: "a list", bool: "true or false", float: "a number"}
NO_FOLDER = Path("/nonexistent")  # clips of samples that may not have any


class BadSample(ValueError):
    """field: where in the object, `question.answer`; "" when it is the object as a whole."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field, self.message = field, message


def read_samples(path: Path) -> Iterator[Sample]:
    """Samples of a JSONL file, gzipped or not, in order. Raises RewardError naming file and line."""
    try:
        data = path.read_bytes()
        text = gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, gzip.BadGzipFile) as error:
        raise RewardError(f"the trajectories {path} can't be read: {error}") from error
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                yield parse_sample(json.loads(line), path.parent.absolute(), f"{path.name}:{number}")
            except ValueError as error:
                raise RewardError(f"{path}, line {number}: not a sample: {error}") from error


def parse_sample(data: Any, folder: Path, trajectory_id: str) -> Sample:
    """One object of any form; folder: where relative clip paths start; trajectory_id: for one without. Raises BadSample."""
    if not isinstance(data, Mapping):
        raise BadSample("", f'expected an object with "question" and "response", got {type(data).__name__}')
    if "sample" in data and "verdict" in data:
        data = data["sample"]
    if "response" in data and "question" in data:
        return _written(data, folder, trajectory_id)
    if isinstance(data, Mapping) and ("text" in data or "trajectory_id" in data):
        try:
            return msgspec.convert(dict(data), Sample)
        except msgspec.ValidationError as error:
            raise BadSample("", f"{error} (a whole sample has the fields {', '.join(sorted(WHOLE))})") from error
    missing = next(name for name in ("question", "response") if name not in data)
    raise BadSample(missing, 'missing; an object has "question" and "response", or all fields of a sample')


def _written(data: Mapping[str, Any], folder: Path, trajectory_id: str) -> Sample:
    _no_stray(data, WRITTEN, "")
    _check("question", data.get("question"), Mapping)
    _check("response", data["response"], str)
    question = data["question"]
    _no_stray(question, QUESTION_DEFAULTS, "question.")
    for name, default in QUESTION_DEFAULTS.items():
        _check(f"question.{name}", question.get(name, default), type(default))
    for number, turn in enumerate(question.get("history", [])):
        _check(f"question.history[{number}]", turn, Mapping)
        _check(f"question.history[{number}].audio", turn.get("audio", []), list)
    for place, clip in recordings(question):
        _check(f"question.{place}", clip, Mapping)
        _check(f"question.{place}.path", clip.get("path"), str)
    for name, kind in (("finished", bool), ("reasoning_tokens", int), ("id", str)):
        if name in data:
            _check(name, data[name], kind)
    return sample_of(data, folder, data.get("id", trajectory_id))


def _no_stray(data: Mapping[str, Any], known: Collection[str], prefix: str) -> None:
    stray = sorted(set(data) - set(known))
    if stray:
        raise BadSample(f"{prefix}{stray[0]}", f"unknown field; known: {', '.join(sorted(known))}")


def _check(field: str, value: Any, kind: type) -> None:
    """JSON has one kind of number, so an int will do for a float."""
    wanted = (float, int) if kind is float else kind
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind is not bool):
        raise BadSample(field, f"{NAMES.get(kind, kind.__name__)} expected, not {type(value).__name__}")
