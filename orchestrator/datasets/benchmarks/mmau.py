"""MMAU (test-mini): 1,000 multiple-choice questions about sound, music and speech.

Format: `mmau-test-mini.json` of github.com/Sakshi113/MMAU, a JSON array of id, audio_id, question, choices, answer, dataset, task, split,
category, sub-category, difficulty, with clips in test-mini-audios/; huggingface.co/datasets/lmms-lab/mmau has the same fields in parquet,
with the clip embedded as `audio` and the options written as text. Scoring: word matching of `evaluation.py` of the first.
"""

from __future__ import annotations

from orchestrator.datasets.benchmarks.format import Benchmark, Draft, Fields, answer_by
from rollout import AnswerKind


def read(fields: Fields) -> Draft:
    """Domain: sound, music or speech; task: the skill asked for."""
    options = fields.options()
    return Draft(
        id=fields.text("id"),
        prompt=fields.text("question"),
        answer=fields.answer_among(options, "answer"),
        answer_kind=AnswerKind.CHOICE,
        sound=fields.sound("audio", "audio_id"),
        choices=options,
        domain=fields.text("task"),
        task=fields.text("sub-category", "category", required=False),
        split=fields.text("split", required=False),
        source=fields.text("dataset", required=False),
    )


BENCHMARK = Benchmark(
    name="mmau",
    title="MMAU",
    files=("mmau-test-mini.json", "data/test_mini-*.parquet", "*.parquet"),
    read=read,
    scoring=lambda judge: answer_by("mmau"),
    source="github.com/Sakshi113/MMAU (mmau-test-mini.json, evaluation.py); huggingface.co/datasets/lmms-lab/mmau",
)
