"""Samples from what people and programs write: three forms of one JSON object, told apart by their fields.

`{"question": {…}, "response": "<think>…"}` as in golden cases; a `Sample` with all its fields; a stored trajectory
`{"sample", "verdict"}`. Neighbours: `lab` reads files of them, `http` requests. Invariant: a bad one is refused with the field.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import msgspec

from rewards.errors import RewardError
from rewards.golden import QUESTION_DEFAULTS, sample_of
from rewards.messages import Sample

WRITTEN = frozenset({"question", "response", "finished", "reasoning_tokens", "id"})
WHOLE = frozenset(field.name for field in fields(Sample))
NO_FOLDER = Path("/nonexistent")  # clips of samples that may not have any


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
    """One object of either form; folder: where relative clip paths start; trajectory_id: for one without.

    Raises ValueError naming the field.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f'expected an object with "question" and "response", got {type(data).__name__}')
    if "sample" in data and "verdict" in data:
        data = data["sample"]
    if "response" in data:
        return _written(data, folder, trajectory_id)
    if isinstance(data, Mapping) and ("text" in data or "trajectory_id" in data):
        try:
            return msgspec.convert(dict(data), Sample)
        except msgspec.ValidationError as error:
            raise ValueError(f"{error} (a whole sample has the fields {', '.join(sorted(WHOLE))})") from error
    missing = next(name for name in ("question", "response") if name not in data)
    raise ValueError(f'{missing}: missing; an object has "question" and "response", or all fields of a sample')


def _written(data: Mapping[str, Any], folder: Path, trajectory_id: str) -> Sample:
    unknown = sorted(set(data) - WRITTEN)
    if unknown:
        raise ValueError(f"{unknown[0]}: unknown field; known: {', '.join(sorted(WRITTEN))}")
    question = data.get("question")
    if not isinstance(question, Mapping):
        raise ValueError(f"question: an object with prompt, answer, answer_kind …, not {type(question).__name__}")
    _check("response", data["response"], str)
    for name in ("prompt", "answer", "answer_kind"):
        _check(f"question.{name}", question.get(name, ""), str)
    _check("question.choices", question.get("choices", []), list)
    _check("question.audio", question.get("audio", []), list)
    for index, clip in enumerate(question.get("audio", [])):
        if not isinstance(clip, Mapping) or not isinstance(clip.get("path"), str):
            raise ValueError(f'question.audio[{index}]: an object {{"path": "…"}}')
    for name, kind in (("finished", bool), ("reasoning_tokens", int), ("id", str)):
        if name in data:
            _check(name, data[name], kind)
    stray = sorted(set(question) - set(QUESTION_DEFAULTS))
    if stray:
        raise ValueError(f"question.{stray[0]}: unknown field; known: {', '.join(QUESTION_DEFAULTS)}")
    return sample_of(data, folder, data.get("id", trajectory_id))


def _check(field: str, value: Any, kind: type) -> None:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{field}: {kind.__name__} expected, not {type(value).__name__}")
