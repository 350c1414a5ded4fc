"""Reads and writes questions as JSON lines beside their clips, and checks every line and every clip before anything trains.

Neighbours: `schema` judges a line, `rollout.load_audio` decodes a clip; `data_stage` and `mgrd data check` call `load_questions`.
Invariants: all problems are reported at once, each by file and line; paths in a file are relative to its folder, paths in memory
are absolute; a clip that several questions share is decoded once.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orchestrator.datasets.schema import DataError, Problem, check_record, question_of
from rollout.audio import AudioError, load_audio
from rollout.audio.decode import SAMPLE_RATE, sha256_of_file
from rollout.messages import AudioRef, Question

SILENCE = 1e-4  # peak of full scale: -80 dB, below any recording's noise
LENGTH_TOLERANCE_S = 0.06  # compressed formats pad by up to two frames
READERS = 4  # decoding waits for the disk as much as for the processor


def load_questions(path: str | Path) -> list[Question]:
    """Questions of a JSONL file in its order, clip paths absolute, digests and lengths filled in.

    Raises DataError that names every bad line and clip: not JSON, unknown, missing or ill-typed fields, an answer that is not among
    the choices or not a number, an id used twice, a clip that is missing, undecodable, empty, silent (whole, or where the truth says
    something sounds), changed since its digest was taken, or of another length.
    """
    path = Path(path).absolute()
    problems: list[Problem] = []
    found = list(_read_lines(path, problems))
    if not found and not problems:
        problems.append(Problem(path, 0, "holds no questions"))
    first_line: dict[str, int] = {}
    for line, question in found:
        if question.id in first_line:
            problems.append(
                Problem(path, line, f"id {question.id!r} is used already in line {first_line[question.id]}")
            )
        first_line.setdefault(question.id, line)
    paths = sorted({clip.path for _, question in found for clip in question.audio})
    with ThreadPoolExecutor(READERS) as pool:
        clips = dict(zip(paths, pool.map(_examine, paths), strict=True))
    questions = []
    for line, question in found:
        faults = [fault for clip in question.audio for fault in _clip_faults(clip, clips[clip.path], question)]
        problems += [Problem(path, line, fault) for fault in faults]
        if not faults:
            audio = tuple(AudioRef(c.path, clips[c.path].sha256, clips[c.path].seconds) for c in question.audio)
            questions.append(dataclasses.replace(question, audio=audio))
    if problems:
        problems.sort(key=lambda p: p.line)
        count = f"{len(problems)} problem" + ("s" if len(problems) > 1 else "")
        raise DataError(f"{count} in {path}; correct or remove these lines:", problems)
    return questions


def write_questions(path: Path, questions: Iterable[Question]) -> None:
    """Writes JSON lines whole or not at all; clip paths become relative to the file's folder. Raises OSError."""
    folder = path.absolute().parent
    staged = path.with_name(f".{path.name}.part")
    with staged.open("w", encoding="utf-8") as file:
        for question in questions:
            audio = tuple(dataclasses.replace(c, path=os.path.relpath(c.path, folder)) for c in question.audio)
            file.write(dataclasses.replace(question, audio=audio).to_json() + "\n")
    os.replace(staged, path)


def _read_lines(path: Path, problems: list[Problem]) -> Iterator[tuple[int, Question]]:
    """(line number, question) of the lines without faults; the others go to `problems`."""
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}; give a JSONL file of questions in UTF-8") from error
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            problems.append(Problem(path, number, f"not JSON: {error}"))
            continue
        faults = check_record(record)
        problems += [Problem(path, number, fault) for fault in faults]
        if faults:
            continue
        question = question_of(record)
        audio = tuple(dataclasses.replace(c, path=str(path.parent / c.path)) for c in question.audio)
        yield number, dataclasses.replace(question, audio=audio)


@dataclass(frozen=True, slots=True)
class _Clip:
    """What examining a clip found. level: RMS of each 10 ms, [frames]; fault: why it cannot be used, else empty."""

    fault: str
    sha256: str = ""
    seconds: float = 0.0
    level: np.ndarray | None = None


FRAME = SAMPLE_RATE // 100


def _examine(path: str) -> _Clip:
    try:
        wave_L = load_audio(path)
        digest = sha256_of_file(path)
    except AudioError as error:
        return _Clip(str(error))
    if float(np.abs(wave_L).max()) < SILENCE:
        return _Clip(f"audio file {path} is silent; record or render it again, or leave the question out")
    whole = len(wave_L) // FRAME * FRAME
    level = np.sqrt(np.mean(np.square(wave_L[:whole].reshape(-1, FRAME)), axis=1))
    return _Clip("", digest, len(wave_L) / SAMPLE_RATE, level)


def _clip_faults(ref: AudioRef, clip: _Clip, question: Question) -> Iterator[str]:
    if clip.fault:
        yield clip.fault
        return
    if ref.sha256 and ref.sha256 != clip.sha256:
        yield f"audio file {ref.path} has changed: its digest is {clip.sha256[:12]}, the line says {ref.sha256[:12]}"
    if ref.seconds and abs(ref.seconds - clip.seconds) > LENGTH_TOLERANCE_S:
        yield f"audio file {ref.path} lasts {clip.seconds:.2f} s, the line says {ref.seconds:.2f} s"
    if len(question.audio) != 1 or clip.level is None:
        return
    events = question.truth.get("events", [])
    for event in events if isinstance(events, list) else []:
        if not isinstance(event, dict):
            continue
        times = [max(0.0, float(t)) for t in (event.get("start_s"), event.get("end_s")) if isinstance(t, int | float)]
        if len(times) != 2:
            continue
        start, end = times
        heard = clip.level[int(start * 100) : max(int(start * 100) + 1, int(end * 100))]
        name = event.get("kind", "something")
        if not len(heard):
            yield f"truth claims {name} at {start:.2f} s, after the end of {ref.path} ({clip.seconds:.2f} s)"
        elif float(heard.max()) < SILENCE:
            yield f"audio file {ref.path} is silent from {start:.2f} to {end:.2f} s, where truth claims {name}"
