"""MMAR: 1,000 multiple-choice questions that take deep reasoning about speech, sound, music and their mix.

Format: `MMAR-meta.jsonl` (before: .json, an array) of github.com/ddlBoJack/MMAR and huggingface.co/datasets/BoJack/MMAR,
records of id, audio_path, question, choices, answer, modality, category, sub-category, language, source, url, timestamp, with
clips in audio/; parquet copies embed the clip as `audio`. Scoring: word matching of its `code/evaluation.py`, which is MMAU's.
"""

from __future__ import annotations

from orchestrator.datasets.benchmarks.format import Benchmark, Draft, Fields, answer_by
from rollout import AnswerKind


def read(fields: Fields) -> Draft:
    """Domain: the modality; task: the layer (signal, perception, semantic, cultural)."""
    options = fields.options()
    return Draft(
        id=fields.text("id"),
        prompt=fields.text("question"),
        answer=fields.answer_among(options, "answer"),
        answer_kind=AnswerKind.CHOICE,
        sound=fields.sound("audio", "audio_path"),
        choices=options,
        domain=fields.text("modality"),
        task=fields.text("category", "sub-category", "subcategory", required=False),
        source=fields.text("source", required=False),
    )


BENCHMARK = Benchmark(
    name="mmar",
    title="MMAR",
    files=("MMAR-meta.jsonl", "MMAR-meta.json", "data/*.parquet", "*.parquet"),
    read=read,
    scoring=lambda judge: answer_by("mmar"),
    source="github.com/ddlBoJack/MMAR (MMAR-meta.json, code/evaluation.py); huggingface.co/datasets/BoJack/MMAR",
)
