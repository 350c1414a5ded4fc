"""The text the tokenizer is trained on: the project's own questions, reasoning chains and prose.

Neighbours: `build` trains the tokenizer with it. Invariants: drawn by seed; every number of the grids and every kind
stands in the text often enough to become one token, before a space and at the start of a line.
"""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.base_model.clips import DOMAINS
from orchestrator.base_model.exercises import DESCRIBE
from orchestrator.datasets.acoustic_qa.chains import LEVEL_GRID_DB, PITCH_GRID_HZ, TIME_STEPS_PER_S, chain
from orchestrator.datasets.acoustic_qa.questions import questions_for
from orchestrator.datasets.acoustic_qa.scenes import MAX_SECONDS, Catalogue, SceneWriter

SCENES_A_FAMILY = 300
REPEATS = 40
PROSE = (
    "Listen to the recording and answer the question. Think about what you hear before you answer.",
    "The model hears words, animals, vehicles, water, instruments, drums and plain tones.",
    "Pitch is given in hertz, level in decibels relative to the loudest sound, time in seconds.",
)


def tokenizer_texts(catalogue: Catalogue, seed: int) -> Iterator[str]:
    """Texts for `train_tokenizer`."""
    kinds = {domain: catalogue.kinds(domain) for domain in DOMAINS}
    names = sorted({kind for of_domain in kinds.values() for kind in of_domain})
    times = [f"{step / TIME_STEPS_PER_S:.1f}" for step in range(round(MAX_SECONDS * TIME_STEPS_PER_S))]
    for _ in range(REPEATS):
        yield from names
        yield " " + " ".join(names)
        yield "".join(f" {value}" for value in (*PITCH_GRID_HZ, *LEVEL_GRID_DB, *times, *range(1, 6)))
        yield from PROSE
    writer = SceneWriter(catalogue, "train")
    for family in writer.families():
        for number in range(SCENES_A_FAMILY):
            scene = writer.draw(family, seed * 1_000_003 + number)
            for question in questions_for(scene, kinds, str(number)):
                options = "".join(f"\n{letter}. {text}" for letter, text in zip("ABCD", question.choices, strict=False))
                yield f"human\n{DESCRIBE}{question.prompt}{options}\nassistant\n"
                yield f"<think>\n{chain(question)}\n</think>\n{question.answer}"
