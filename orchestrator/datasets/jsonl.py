"""Reads and writes questions as JSON lines beside their clips, and checks every line and every clip before anything trains.

Neighbours: `schema` judges a line, `recordings` a clip; `demonstrations` and `benchmarks` share the reading; `data_stage` and
`mgrd data check` call `load_questions`.
Invariants: all problems are reported at once, each by file and line; paths in a file are relative to its folder, paths in memory
are absolute; a file is written whole or not at all.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from orchestrator.datasets.recordings import with_examined_clips
from orchestrator.datasets.schema import DataError, Problem, check_record, question_of
from rollout.messages import Question


def load_questions(path: str | Path) -> list[Question]:
    """Questions of a JSONL file in its order, clip paths absolute, digests and lengths filled in.

    Raises DataError that names every bad line and clip: not JSON, unknown, missing or ill-typed fields, an answer that is not among
    the choices or not a number, an id used twice, a clip that is missing, undecodable, empty, silent (whole, or where the truth says
    something sounds), changed since its digest was taken, or of another length.
    """
    path = Path(path).absolute()
    problems: list[Problem] = []
    found: list[tuple[int, Question]] = []
    for line, record in read_records(path, problems):
        faults = check_record(record)
        problems += [Problem(path, line, fault) for fault in faults]
        if not faults:
            found.append((line, with_absolute_paths(question_of(record), path.parent)))
    if not found and not problems:
        problems.append(Problem(path, 0, "holds no questions"))
    problems += repeated_ids(path, found)
    questions = with_examined_clips(path, found, problems)
    raise_problems(path, problems)
    return questions


def write_questions(path: Path, questions: Iterable[Question]) -> None:
    """Writes JSON lines whole or not at all; clip paths become relative to the file's folder. Raises OSError."""
    folder = path.absolute().parent
    write_lines(path, (with_relative_paths(question, folder).to_json() for question in questions))


def read_records(path: Path, problems: list[Problem]) -> Iterator[tuple[int, Any]]:
    """(line number, decoded JSON) of the lines that are not blank; those that are not JSON go to `problems`.

    Raises DataError when the file can't be read.
    """
    yield from json_lines(path, text_of(path, "give a JSONL file in UTF-8"), problems)


def text_of(path: Path, advice: str) -> str:
    """A file's text, without a byte order mark. Raises DataError with `advice` when it can't be read."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}; {advice}") from error


def json_lines(path: Path, text: str, problems: list[Problem]) -> Iterator[tuple[int, Any]]:
    """`read_records` of a text that was read already; path: for `problems`."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            problems.append(Problem(path, number, f"not JSON: {error}"))
            continue
        yield number, record


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """The lines as a text file that appears whole or not at all. Raises OSError."""
    staged = path.with_name(f".{path.name}.part")
    with staged.open("w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)
    os.replace(staged, path)


def with_absolute_paths(question: Question, folder: Path) -> Question:
    """Paths of all recordings joined to `folder`."""
    return question.with_clips([dataclasses.replace(c, path=str(folder / c.path)) for c in question.clips])


def with_relative_paths(question: Question, folder: Path) -> Question:
    """Paths of all recordings as seen from `folder`."""
    return question.with_clips([dataclasses.replace(c, path=os.path.relpath(c.path, folder)) for c in question.clips])


def repeated_ids(path: Path, found: Sequence[tuple[int, Question]]) -> list[Problem]:
    """A problem for every id that an earlier line has already."""
    problems = []
    first_line: dict[str, int] = {}
    for line, question in found:
        if question.id in first_line:
            problems.append(
                Problem(path, line, f"id {question.id!r} is used already in line {first_line[question.id]}")
            )
        first_line.setdefault(question.id, line)
    return problems


def raise_problems(path: Path, problems: list[Problem]) -> None:
    """Raises DataError with all of them, by line, if there are any."""
    if problems:
        count = f"{len(problems)} problem" + ("s" if len(problems) > 1 else "")
        ordered = sorted(problems, key=lambda p: p.line)
        raise DataError(f"{count} in {path}; correct or remove these lines:", ordered)
