"""The same questions without what there was to hear: silence, noise, or the clip of another question.

Neighbours: `contribution` judges what is lost by it; the feature cache knows clips by their digest. Invariants: the same arguments
give the same questions; silence and noise are as long as the clip to the audio token (a swapped clip about as long), so that
length tells what it told before; few files are shared by many questions, so that few have to be encoded.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import math
import os
import random
import threading
from collections import defaultdict
from collections.abc import Sequence
from enum import StrEnum
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile

from orchestrator.errors import MgrdError
from orchestrator.seeds import derive
from rewards.functions.text import canonical
from rewards.functions.units import is_number
from rollout.audio.decode import SAMPLE_RATE, load_audio
from rollout.messages import AnswerKind, AudioRef, Question

MARK = "#"  # between a question's id and how it was perturbed
LEVEL_STEP_DB = 3.0  # noise levels are rounded to it: about what one hears as a change
QUIETEST_DB = -90.0  # one step of 16-bit PCM
TOKEN_SAMPLES, FIRST_TOKEN_SAMPLES = (
    1280,
    320,
)  # clips of 1280 k - 959 to 1280 k + 320 samples have k audio tokens (12.5 Hz)
LENGTH_STEP_S = 0.5  # donors whose clips differ by less count as equally long


class HearingError(MgrdError):
    """A question's clips can't be replaced."""


class Perturbation(StrEnum):
    """What takes the place of a question's clips."""

    SILENCE = "silence"
    NOISE = "noise"  # white, as loud as the clip on the whole
    SWAP = "swap"  # the clip of another question with another answer


def perturbed(
    questions: Sequence[Question],
    how: Perturbation,
    *,
    folder: Path,
    seed: int,
    donors: Sequence[Question] | None = None,
) -> list[Question]:
    """The questions in their order, as `{id}#{how}`, with every clip replaced; answer and truth stay those of the original.

    folder: where silence and noise go (16-bit PCM, 16 kHz, mono, `{sha256}.wav`); donors: whose clips are swapped in (None: the
    questions themselves). Raises HearingError for a question without a clip, or without a donor of another answer and clip;
    AudioError for a clip that can't be read.
    """
    silent = [question.id for question in questions if not question.clips]
    if silent:
        raise HearingError(
            f"{len(silent)} questions have no clip that could be replaced (first: {silent[0]!r}); ask only audio questions"
        )
    if how is Perturbation.SWAP:
        pool = _Donors(questions if donors is None else donors)
        clips = [pool.clips_for(question, seed) for question in questions]
    else:
        files = _Files(folder, seed)
        clips = [[files.replacement(ref, how) for ref in question.clips] for question in questions]
    return [
        dataclasses.replace(question.with_clips(new), id=f"{question.id}{MARK}{how}")
        for question, new in zip(questions, clips, strict=True)
    ]


def with_donors(questions: Sequence[Question], donors: Sequence[Question] | None = None) -> list[Question]:
    """Those of the questions whose clips can be replaced in every way: they have clips, and a donor to swap with. donors: as for
    `perturbed`."""
    pool = _Donors(questions if donors is None else donors)
    return [question for question in questions if question.clips and pool.candidates(question)]


def original_id(question_id: str) -> str:
    """The id of the question that a perturbed one was made from; any other id unchanged."""
    stem, mark, how = question_id.rpartition(MARK)
    return stem if mark and how in set(Perturbation) else question_id


def same_answer(question: Question, other: Question) -> bool:
    """Whether the other question's right answer would be right here, too; no when one of them has no reference."""
    if not question.answer.strip() or not other.answer.strip():
        return False
    if _canonical(question.answer) == _canonical(other.answer):
        return True
    return question.answer_kind is AnswerKind.NUMBER and is_number(other.answer, question.answer, question.tolerance)


_canonical = lru_cache(maxsize=65536)(canonical)  # answers are few and compared often


class _Donors:
    """Questions whose clips may be swapped in, in an order that does not depend on how they came."""

    def __init__(self, donors: Sequence[Question]) -> None:
        self._all = sorted((donor for donor in donors if donor.clips), key=lambda donor: donor.id)
        self._by_task: dict[str, list[Question]] = defaultdict(list)
        self._about: dict[str, list[Question]] = defaultdict(list)  # by clip
        for donor in self._all:
            self._by_task[donor.task].append(donor)
            for ref in donor.clips:
                self._about[ref.sha256].append(donor)

    def clips_for(self, question: Question, seed: int) -> list[AudioRef]:
        """Clips of one donor, taken in turn: of the same task if there is one, with as many clips, about as long."""
        nearest = self.candidates(question)
        if not nearest:
            raise HearingError(
                f"question {question.id!r} has no other clip to swap with: every donor has its clip or its answer "
                f"{question.answer!r}; give donors with other answers"
            )
        donor = random.Random(derive(seed, "swap", question.id)).choice(nearest)
        return [donor.clips[i % len(donor.clips)] for i in range(len(question.clips))]

    def candidates(self, question: Question) -> list[Question]:
        """Donors to choose from; [] when there is none."""
        return self._nearest(question, self._by_task[question.task]) or self._nearest(question, self._all)

    def _nearest(self, question: Question, donors: Sequence[Question]) -> list[Question]:
        """The able donors of the least distance at which there are any."""
        at: dict[tuple[int, int], list[Question]] = defaultdict(list)
        for donor in donors:
            at[_distance(question, donor)].append(donor)
        for distance in sorted(at):
            if able := [donor for donor in at[distance] if self._is_able(question, donor)]:
                return able
        return []

    def _is_able(self, question: Question, donor: Question) -> bool:
        own = {ref.sha256 for ref in question.clips}
        return not same_answer(question, donor) and not any(
            ref.sha256 in own or self._answers(question, ref) for ref in donor.clips
        )

    def _answers(self, question: Question, ref: AudioRef) -> bool:
        """Whether a clip is known to have the same answer to the same task."""
        return any(other.task == question.task and same_answer(question, other) for other in self._about[ref.sha256])


def _distance(question: Question, donor: Question) -> tuple[int, int]:
    seconds = abs(sum(ref.seconds for ref in question.clips) - sum(ref.seconds for ref in donor.clips))
    return abs(len(question.clips) - len(donor.clips)), round(seconds / LENGTH_STEP_S)


class _Files:
    """Silence and noise, each made once a length and level."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder.absolute()
        self._seed = seed
        self._made: dict[tuple[int, float | None], AudioRef] = {}
        self._heard: dict[str, tuple[int, float]] = {}

    def replacement(self, ref: AudioRef, how: Perturbation) -> AudioRef:
        samples, level_db = self._measured(ref)
        wanted = (samples, None if how is Perturbation.SILENCE else level_db)
        if wanted not in self._made:
            wave = np.zeros(samples) if wanted[1] is None else white_noise(samples, level_db, self._seed)
            self._made[wanted] = _store(self._folder, wave)
        return self._made[wanted]

    def _measured(self, ref: AudioRef) -> tuple[int, float]:
        """Length in samples, up to the end of the last audio token, and level in whole steps of dB of full scale."""
        if ref.path not in self._heard:
            wave = load_audio(ref.path)
            self._heard[ref.path] = whole_tokens(len(wave)), level_of(wave)
        return self._heard[ref.path]


def whole_tokens(samples: int) -> int:
    """The longest clip that has as many audio tokens as one of `samples` at 16 kHz; less than 0.08 s longer."""
    return FIRST_TOKEN_SAMPLES + TOKEN_SAMPLES * math.ceil((samples - FIRST_TOKEN_SAMPLES) / TOKEN_SAMPLES)


def level_of(wave_L: np.ndarray) -> float:
    """RMS in dB of full scale, rounded to LEVEL_STEP_DB, no lower than QUIETEST_DB."""
    rms = float(np.sqrt(np.mean(np.square(wave_L, dtype=np.float64))))
    decibels = 20 * np.log10(max(rms, 10 ** (QUIETEST_DB / 20)))
    return float(LEVEL_STEP_DB * round(decibels / LEVEL_STEP_DB))


def white_noise(samples: int, level_db: float, seed: int) -> np.ndarray:
    """float64 [samples] of this RMS. Evenly distributed: its peaks are 4.8 dB above the RMS, so that loud noise is not cut off."""
    rng = np.random.default_rng(derive(seed, "noise", samples, f"{level_db:g}"))
    wave = rng.uniform(-1.0, 1.0, samples)
    wave *= 10 ** (level_db / 20) / np.sqrt(np.mean(np.square(wave)))
    return np.clip(wave, -1.0, 1.0)


def _store(folder: Path, wave_L: np.ndarray) -> AudioRef:
    """The clip under the hash of its bytes; a file that is there already is the same file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, wave_L, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    body = buffer.getvalue()
    digest = hashlib.sha256(body).hexdigest()
    path = folder / f"{digest}.wav"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        part.write_bytes(body)
        os.replace(part, path)
    return AudioRef(str(path), digest, len(wave_L) / SAMPLE_RATE)
