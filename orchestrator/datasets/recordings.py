"""Recordings of questions, opened and checked before anything trains.

Neighbours: `jsonl` and `demonstrations` read questions and ask for their recordings here; `rollout.load_audio` decodes.
Invariants: a clip that several questions share is decoded once; every fault of every clip is found, by file and line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orchestrator.datasets.schema import Problem
from rollout.audio import AudioError, load_audio
from rollout.audio.decode import SAMPLE_RATE, sha256_of_file
from rollout.messages import AudioRef, Question

SILENCE = 1e-4  # peak of full scale: -80 dB, below any recording's noise
LENGTH_TOLERANCE_S = 0.06  # compressed formats pad by up to two frames
READERS = 4  # decoding waits for the disk as much as for the processor
FRAME = SAMPLE_RATE // 100


@dataclass(frozen=True, slots=True)
class _Clip:
    """What examining a clip found. level: RMS of each 10 ms, [frames]; fault: why it cannot be used, else empty."""

    fault: str
    sha256: str = ""
    seconds: float = 0.0
    level: np.ndarray | None = None


def with_examined_clips(file: Path, found: Sequence[tuple[int, Question]], problems: list[Problem]) -> list[Question]:
    """The questions, each recording with its digest and length; what is wrong with a recording goes to `problems`.

    found: (line in `file`, question) with absolute paths. A question with a faulty recording is handed back as it was.
    """
    paths = sorted({clip.path for _, question in found for clip in question.clips})
    with ThreadPoolExecutor(READERS) as pool:
        clips = dict(zip(paths, pool.map(_examine, paths), strict=True))
    questions = []
    for line, question in found:
        faults = [fault for clip in question.clips for fault in _faults(clip, clips[clip.path], question)]
        problems += [Problem(file, line, fault) for fault in faults]
        examined = [AudioRef(c.path, clips[c.path].sha256, clips[c.path].seconds) for c in question.clips]
        questions.append(question if faults else question.with_clips(examined))
    return questions


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


def _faults(ref: AudioRef, clip: _Clip, question: Question) -> Iterator[str]:
    if clip.fault:
        yield clip.fault
        return
    if ref.sha256 and ref.sha256 != clip.sha256:
        yield f"audio file {ref.path} has changed: its digest is {clip.sha256[:12]}, the line says {ref.sha256[:12]}"
    if ref.seconds and abs(ref.seconds - clip.seconds) > LENGTH_TOLERANCE_S:
        yield f"audio file {ref.path} lasts {clip.seconds:.2f} s, the line says {ref.seconds:.2f} s"
    if len(question.clips) != 1 or clip.level is None:
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
