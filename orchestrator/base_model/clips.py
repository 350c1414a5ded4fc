"""Training clips: a drawn scene with its frame labels and its exercises, and for real ones the encoder's features.

Neighbours: scenes and questions from `orchestrator.datasets.acoustic_qa`, texts from `exercises`; `stages` train on them.
Invariants: drawn by seed; the number of audio positions is the model's own length rule, so features fit where labels do.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orchestrator.base_model.exercises import ExerciseWriter, Mix
from orchestrator.base_model.frames import LabelSpace, kinds_of
from orchestrator.base_model.trees import Exercise
from orchestrator.datasets.acoustic_qa.questions import questions_for
from orchestrator.datasets.acoustic_qa.scenes import Catalogue, Scene, SceneWriter
from rollout.messages import Question
from rollout.model.config import StepAudio2EncoderConfig
from rollout.model.lengths import SAMPLE_RATE, lengths_from_samples

DOMAINS = ("speech", "sound", "music", "drum", "tone")
FAMILY_WEIGHTS: Mapping[str, float] = {
    "word": 1.0,
    "sound": 1.0,
    "note": 0.7,
    "sequence": 1.5,
    "levels": 1.2,
    "notes": 3.0,
    "melody": 2.0,
    "repeats": 2.0,
    "beat": 1.0,
}
HELD_OUT_WEIGHTS: Mapping[str, float] = {  # so that every task gets about as many questions
    **dict.fromkeys(FAMILY_WEIGHTS, 1.0),
    "note": 0.3,
    "levels": 0.5,
    "notes": 3.0,
}
SIDE_QUESTION_SHARE = 0.3  # a melody also asks for its instrument this often, else instruments would crowd out the rest


@dataclass(frozen=True, slots=True)
class Clip:
    """A scene with labels_TF [patches, 5]; features [T25, D] float16 when it was rendered and encoded, else None."""

    scene: Scene
    labels_TF: npt.NDArray[np.int64]
    features: npt.NDArray[np.float16] | None = None

    @property
    def frames(self) -> int:
        return len(self.labels_TF)


class ClipSource:
    """Draws scenes of one split and the exercises about them."""

    def __init__(
        self, catalogue: Catalogue, split: str, exercises: ExerciseWriter, config: StepAudio2EncoderConfig
    ) -> None:
        self.writer = SceneWriter(catalogue, split)
        self.kinds = {domain: catalogue.kinds(domain) for domain in DOMAINS}
        self.space = LabelSpace(kinds_of(self.kinds))
        self.split = split
        self._exercises, self._config = exercises, config
        families = self.writer.families()
        self._families = families
        weights = FAMILY_WEIGHTS if split == "train" else HELD_OUT_WEIGHTS
        self._weights = [weights[family] for family in families]

    def scene(self, seed: int) -> Scene:
        """A scene of a family drawn by the weights of the split."""
        rng = random.Random(f"family/{self.split}/{seed}")
        return self.writer.draw(rng.choices(self._families, self._weights)[0], seed)

    def clip(self, scene: Scene, features: npt.NDArray[np.float16] | None = None) -> Clip:
        patches = lengths_from_samples(round(scene.seconds * SAMPLE_RATE), self._config).patches
        return Clip(scene, self.space.labels(scene, patches), features)

    def questions(self, scene: Scene, draw: int) -> tuple[Question, ...]:
        """All questions about a scene; `draw` varies wrong options and their order."""
        return questions_for(scene, self.kinds, f"{scene.seed}.{draw}", self.split)

    def exercises(self, scene: Scene, draw: int, mix: Mix, rng: random.Random) -> list[Exercise]:
        """Exercises about a scene in the shares of `mix`; at least one."""
        questions = self.questions(scene, draw)
        found: list[Exercise] = []
        for question in questions:
            side = question.task == "instrument" and len(scene.events) > 1
            if side and rng.random() >= SIDE_QUESTION_SHARE:
                continue
            direct, think = rng.random() < mix.direct, rng.random() < mix.think
            if direct or think:
                found.append(self._exercises.answering(question, direct, think))
            if rng.random() < mix.describe:
                found.append(self._exercises.describing(question))
        return found or [self._exercises.answering(questions[0], direct=True, think=False)]
