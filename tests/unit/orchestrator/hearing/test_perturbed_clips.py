"""Silence, noise and swapped clips: what is replaced, what is shared, what never happens."""

from __future__ import annotations

import hashlib
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.hearing.perturb import (
    HearingError,
    Perturbation,
    level_of,
    original_id,
    perturbed,
    same_answer,
    whole_tokens,
    with_donors,
)
from orchestrator.stages.curve import contribution_questions
from rollout import AnswerKind, AudioRef, Question, load_audio
from rollout.messages import Turn
from rollout.model.config import StepAudio2EncoderConfig
from rollout.model.lengths import lengths_from_samples

RATE = 16_000


@lru_cache(maxsize=1)
def room() -> Path:
    return Path(tempfile.mkdtemp(prefix="mgrd-clips-"))


@lru_cache(maxsize=64)
def clip(number: int, samples: int = RATE // 2, rms: float = 0.05) -> AudioRef:
    wave = np.random.default_rng(number).standard_normal(samples)
    wave *= rms / np.sqrt(np.mean(wave**2))
    path = room() / f"{number}-{samples}-{rms}.wav"
    soundfile.write(path, wave, RATE, subtype="PCM_16")
    return AudioRef(str(path), hashlib.sha256(path.read_bytes()).hexdigest(), samples / RATE)


def question(number: int, answer: str = "dog", task: str = "order", **more: object) -> Question:
    fields = {"audio": (clip(number),), "task": task, "truth": {"events": [number]}} | more
    return Question(f"q{number}", "Which?", answer, AnswerKind.EXACT, **fields)  # type: ignore[arg-type]


QUESTIONS = st.lists(
    st.tuples(st.integers(0, 9), st.sampled_from("ab"), st.sampled_from(["order", "word"])), min_size=1, max_size=14
).map(lambda rows: [question(c, a, t, audio=(clip(c),)) for c, a, t in rows])


@pytest.mark.parametrize("how", list(Perturbation))
def test_only_id_and_clips_change(how: Perturbation, tmp_path: Path) -> None:
    asked = [question(i, answer) for i, answer in enumerate(["dog", "cat", "cow"])]
    new = perturbed(asked, how, folder=tmp_path, seed=1)
    for before, after in zip(asked, new, strict=True):
        assert after.id == f"{before.id}#{how}" and original_id(after.id) == before.id
        assert (after.answer, after.truth, after.prompt, after.task) == (
            before.answer,
            before.truth,
            before.prompt,
            before.task,
        )
        assert after.audio[0].sha256 != before.audio[0].sha256
        assert 0 <= after.audio[0].seconds - before.audio[0].seconds < 0.08
        assert hashlib.sha256(Path(after.audio[0].path).read_bytes()).hexdigest() == after.audio[0].sha256
    assert new == perturbed(asked, how, folder=tmp_path, seed=1)


def test_silence_is_silent_and_shared_by_all_clips_of_a_length(tmp_path: Path) -> None:
    asked = [question(1), question(2), question(3, audio=(clip(3, RATE // 4),))]
    new = perturbed(asked, Perturbation.SILENCE, folder=tmp_path, seed=1)
    assert new[0].audio == new[1].audio != new[2].audio
    assert len(list(tmp_path.iterdir())) == 2
    assert [len(load_audio(q.audio[0].path)) for q in new] == [8000, 8000, 4160]
    assert [q.audio[0].seconds for q in new] == [0.5, 0.5, 0.26]
    assert all(not load_audio(q.audio[0].path).any() for q in new)


@given(st.floats(0.001, 0.5))
@settings(max_examples=25, deadline=None)
def test_noise_is_as_loud_as_the_clip_to_half_a_step(rms: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ref = clip(7, RATE // 2, round(rms, 3))
        new = perturbed([question(7, audio=(ref,))], Perturbation.NOISE, folder=Path(folder), seed=3)
        before, after = (np.sqrt(np.mean(load_audio(r.path) ** 2)) for r in (ref, new[0].audio[0]))
        assert abs(20 * np.log10(after / before)) <= 1.6  # half of 3 dB and 16-bit rounding
        info = soundfile.info(new[0].audio[0].path)
        assert (info.samplerate, info.channels, info.subtype) == (RATE, 1, "PCM_16")


def test_noise_is_white_and_shared_by_clips_of_one_length_and_level(tmp_path: Path) -> None:
    new = perturbed([question(i) for i in range(6)], Perturbation.NOISE, folder=tmp_path, seed=1)
    assert len({q.audio[0].sha256 for q in new}) == len(list(tmp_path.iterdir())) == 1
    power = np.abs(np.fft.rfft(load_audio(new[0].audio[0].path))) ** 2
    bands = [band.mean() for band in np.array_split(power[1:], 8)]
    assert max(bands) < 2 * min(bands)
    other_seed = perturbed([question(0)], Perturbation.NOISE, folder=tmp_path, seed=2)
    assert other_seed[0].audio != new[0].audio


@settings(deadline=None)
@given(st.integers(1600, 400_000))
def test_lengths_are_shared_only_within_one_number_of_audio_tokens(samples: int) -> None:
    config = StepAudio2EncoderConfig()
    whole = whole_tokens(samples)
    assert samples <= whole < samples + 1280
    assert lengths_from_samples(whole, config).patches == lengths_from_samples(samples, config).patches
    assert lengths_from_samples(whole + 1, config).patches == lengths_from_samples(samples, config).patches + 1


def test_a_silent_clip_gets_the_quietest_noise() -> None:
    assert level_of(np.zeros(100)) == -90.0


@given(QUESTIONS, st.integers(0, 3), st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_a_swapped_clip_never_belongs_to_the_same_answer_and_does_not_depend_on_order(
    asked: list[Question], seed: int, shuffler: object
) -> None:
    asked = list({q.id: q for q in asked}.values())
    try:
        new = perturbed(asked, Perturbation.SWAP, folder=room(), seed=seed)
    except HearingError as error:
        assert "no other clip to swap with" in str(error)
        answers = {q.answer for q in asked}
        assert len(answers) == 1 or len({q.task for q in asked}) == 2
        return
    owner = {q.audio[0].sha256: q for q in asked}
    for before, after in zip(asked, new, strict=True):
        donor = owner[after.audio[0].sha256]
        assert donor.answer != before.answer
        same_task = [q for q in asked if q.task == before.task and q.answer != before.answer]
        assert not same_task or donor.task == before.task
    mixed = list(asked)
    shuffler.shuffle(mixed)  # type: ignore[attr-defined]
    again = {q.id: q for q in perturbed(mixed, Perturbation.SWAP, folder=room(), seed=seed)}
    assert [again[q.id] for q in new] == new


def test_a_clip_that_another_question_shows_to_have_the_same_answer_is_no_donor() -> None:
    shared = clip(5)
    asked = question(1, "first", "louder")
    donors = [
        question(2, "first", "louder", audio=(shared,)),
        question(3, "second", "higher", audio=(shared,)),
        question(4, "second", "higher", audio=(clip(4),)),
    ]
    new = perturbed([asked], Perturbation.SWAP, folder=room(), seed=0, donors=donors)
    assert new[0].audio == (clip(4),)
    with pytest.raises(HearingError, match="q1"):
        perturbed([asked], Perturbation.SWAP, folder=room(), seed=0, donors=donors[:2])


def test_a_question_about_the_same_clip_is_no_donor() -> None:
    asked = [question(1, "rising", "melody"), question(2, "flute", "instrument", audio=(clip(1),))]
    with pytest.raises(HearingError, match="no other clip"):
        perturbed(asked, Perturbation.SWAP, folder=room(), seed=0)
    with pytest.raises(HearingError, match="no other clip"):
        perturbed(asked[:1], Perturbation.SWAP, folder=room(), seed=0, donors=asked[1:])


def test_donors_of_similar_length_come_first() -> None:
    asked = question(1, "a", audio=(clip(1, RATE),))
    donors = [question(2, "b", audio=(clip(2, 3 * RATE),)), question(3, "b", audio=(clip(3, RATE + 160),))]
    for seed in range(5):
        assert perturbed([asked], Perturbation.SWAP, folder=room(), seed=seed, donors=donors)[0].audio == (
            clip(3, RATE + 160),
        )


def test_the_seed_picks_the_donor() -> None:
    asked = question(0, "a")
    donors = [question(i, "b") for i in range(1, 10)]
    picked = {
        perturbed([asked], Perturbation.SWAP, folder=room(), seed=s, donors=donors)[0].audio[0].path for s in range(30)
    }
    assert len(picked) > 4


@given(QUESTIONS)
@settings(max_examples=80, deadline=None)
def test_questions_with_donors_are_exactly_those_that_can_be_swapped(asked: list[Question]) -> None:
    asked = [*{q.id: q for q in asked}.values(), question(99, audio=())]
    able = with_donors(asked)
    for one in asked[:-1]:
        if one in able:
            assert perturbed([one], Perturbation.SWAP, folder=room(), seed=0, donors=asked)[0].audio != one.audio
        else:
            with pytest.raises(HearingError, match="no other clip"):
                perturbed([one], Perturbation.SWAP, folder=room(), seed=0, donors=asked)
    assert asked[-1] not in able


@pytest.mark.parametrize("how", list(Perturbation))
def test_every_clip_of_every_turn_is_replaced(how: Perturbation, tmp_path: Path) -> None:
    asked = question(1, "a", audio=(clip(1), clip(2)), history=(Turn("human", "And this?", (clip(3),)),))
    new = perturbed([asked], how, folder=tmp_path, seed=0, donors=[question(4, "b"), question(5, "b")])[0]
    own = {ref.sha256 for ref in asked.clips}
    assert len(new.clips) == 3 and not own & {ref.sha256 for ref in new.clips}
    assert (new.history[0].text, len(new.history[0].audio)) == ("And this?", 1)


def test_numbers_within_tolerance_are_the_same_answer() -> None:
    one = Question("1", "How many?", "4", AnswerKind.NUMBER, tolerance=1.0)
    assert same_answer(one, Question("2", "How many?", "five", AnswerKind.NUMBER))
    assert not same_answer(one, Question("3", "How many?", "6", AnswerKind.NUMBER))


def test_open_questions_without_a_reference_swap_clips_with_each_other(tmp_path: Path) -> None:
    open_questions = [question(number, answer="") for number in range(3)]
    assert not same_answer(open_questions[0], open_questions[1])
    swapped = perturbed(open_questions, Perturbation.SWAP, folder=tmp_path, seed=0)
    assert all(new.clips != old.clips for new, old in zip(swapped, open_questions, strict=True))


def test_a_text_question_has_nothing_to_replace(tmp_path: Path) -> None:
    with pytest.raises(HearingError, match="'q1'"):
        perturbed([question(1, audio=())], Perturbation.SILENCE, folder=tmp_path, seed=0)


def test_only_marks_of_perturbations_are_taken_off_an_id() -> None:
    assert [original_id(i) for i in ("q#1", "q#silence", "a#b#swap")] == ["q#1", "q", "a#b"]


def test_the_curve_asks_without_clip_only_where_that_is_possible(tmp_path: Path) -> None:
    held_out = [question(i, "dog", task=str(i % 2)) for i in range(6)] + [question(9, "cat", "other")]
    held_out += [question(20, audio=()), question(21, audio=(clip(9),), task="same clip")]
    asked, undonated = contribution_questions(held_out, 100, seed=1)
    assert {q.id for q in asked} == {"q0", "q1", "q2", "q3", "q4", "q5", "q9"} and undonated == 1
    for how in Perturbation:
        assert len(perturbed(asked, how, folder=tmp_path, seed=0, donors=held_out)) == 7
    assert contribution_questions(held_out[7:8], 100, seed=1) == ([], 0)
    assert len(contribution_questions(held_out, 3, seed=1)[0]) <= 3
