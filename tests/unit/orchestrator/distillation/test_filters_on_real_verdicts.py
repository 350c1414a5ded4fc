"""The names that the filters look at are those that the reward functions report."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from orchestrator.config.recipe import DistilConfig
from orchestrator.distillation.chains import DistilSettings, Provenance, distil
from orchestrator.distillation.filters import LengthBand
from orchestrator.distillation.pairs import error_rate, mine_pairs
from orchestrator.hearing.contribution import shares_correct
from orchestrator.hearing.perturb import Perturbation, perturbed
from orchestrator.stages.distil import rules
from orchestrator.stages.scoring import Scored, attach
from rewards import RewardSpec, RewardTerm, make_sample
from rewards.scorer import Scorer
from rollout import AnswerKind, AudioRef, FinishReason, Question, Trajectory
from rollout.audio.decode import sha256_of_file

RATE = 16_000
NAMES = ("answer", "format", "think_present", "grounding", "consistency", "self_cognition", "repetition")
SPEC = RewardSpec(tuple(RewardTerm(name, 0.1, "any") for name in NAMES), 10.0, 2048, 1)
RULES = rules(DistilConfig())  # as the stage has them
RESPONSES = [
    "<think>\nNote 1 is about 440 Hz. Note 2 is about 622 Hz. So second.\n</think>\nsecond",
    "<think>\nNote 1 is about 440 Hz. Note 2 is about 311 Hz. So second.\n</think>\nsecond",
    "<think>\nNote 1 is about 440 Hz. Note 2 is about 622 Hz. So second.\n</think>\nfirst",
    "<think>\nThe answer sounds right. So second.\n</think>\nsecond",
    "<think>\nNote 1 is about 440 Hz. Note 2 is about 622 Hz. So first.\n</think>\nsecond",
    "<think>\nI cannot hear the audio.\n</think>\nAs a text model I cannot listen.",
]


@pytest.fixture(scope="module")
def scorer() -> Iterator[Scorer]:
    with Scorer(SPEC) as running:
        yield running


@pytest.fixture(scope="module")
def question(tmp_path_factory: pytest.TempPathFactory) -> Question:
    """Two tones, 440 and 622 Hz."""
    time = np.arange(RATE // 2) / RATE
    wave = np.concatenate([0.2 * np.sin(2 * np.pi * hertz * time) for hertz in (440.0, 622.3)])
    path = tmp_path_factory.mktemp("tones") / "tones.wav"
    soundfile.write(path, wave, RATE, subtype="PCM_16")
    events = [
        {"kind": "flute", "start_s": 0.5 * i, "end_s": 0.5 * i + 0.5, "pitch_hz": hertz, "level_db": 0.0}
        for i, hertz in enumerate((440.0, 622.3))
    ]
    return Question(
        "tones-higher",
        "Which note is higher?",
        "second",
        AnswerKind.CHOICE,
        choices=("first", "second"),
        audio=(AudioRef(str(path), sha256_of_file(path), 1.0),),
        task="higher",
        truth={"events": events, "seconds": 1.0, "beat_s": None},
    )


def scored(scorer: Scorer, question: Question) -> list[Scored]:
    trajectories = [
        Trajectory(
            f"t/{question.id}/{i}", question.id, i, (1,), (2, i), (0.0, 0.0), (4, 4), ("f",), FinishReason.STOP, text
        )
        for i, text in enumerate(RESPONSES)
    ]
    samples = [make_sample(question, trajectory) for trajectory in trajectories]
    return attach([question] * len(samples), trajectories, samples, scorer.score(samples))


def test_a_true_chain_is_kept_and_each_other_goes_for_its_own_reason(scorer: Scorer, question: Question) -> None:
    group = scored(scorer, question)
    assert all(item.verdict.valid for item in group), [item.verdict.reason for item in group]
    found = distil([group], DistilSettings(RULES, LengthBand(0, 500)), Provenance("t1", 0, 1))
    assert [chain.text for chain in found.kept] == RESPONSES[:1]
    assert {reason: n for reason, n in found.funnel.items() if n} == {
        "correct": 2,
        "grounding/true_share": 1,
        "grounding": 1,
        "consistency": 1,
        "kept": 1,
    }


def test_a_denial_makes_a_pair_with_a_response_that_hears(scorer: Scorer, question: Question) -> None:
    group = scored(scorer, question)
    (pair,) = mine_pairs([group], model="t1", max_per_question=1, seed=0)
    assert pair.rejected.text == RESPONSES[5] and pair.chosen.text in (RESPONSES[0], RESPONSES[2], RESPONSES[4])
    assert error_rate([group])[0] == pytest.approx(1 / 6)


@pytest.mark.parametrize("how", [Perturbation.SILENCE, Perturbation.NOISE])
def test_responses_to_clips_without_content_have_valid_verdicts(
    how: Perturbation, scorer: Scorer, question: Question, tmp_path: Path
) -> None:
    (changed,) = perturbed([question], how, folder=tmp_path, seed=0)
    for asked in (changed, dataclasses.replace(changed, truth={})):
        group = scored(scorer, asked)
        assert all(item.verdict.valid for item in group), [item.verdict.reason for item in group]
        assert shares_correct([group]) == {question.id: pytest.approx(4 / 6)}
