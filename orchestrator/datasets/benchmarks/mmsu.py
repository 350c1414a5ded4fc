"""MMSU: 5,000 multiple-choice questions about spoken language in 47 tasks.

Format: question/mmsu.jsonl of huggingface.co/datasets/ddwang2000/MMSU, one record a line of id, task_name, audio_path,
question, choice_a to choice_d, answer_gt, category, sub-category, sub-sub-category, with clips in audio/; 453 questions have
two options, the others are null. A newer copy has `choices` by letter and `answer`. Scoring: the letter rule of the evaluator
(github.com/dingdongwang/MMSU).
"""

from __future__ import annotations

from orchestrator.datasets.benchmarks.format import Benchmark, Draft, Fields, answer_by
from rollout import AnswerKind

LETTERED = ("choice_a", "choice_b", "choice_c", "choice_d")
PARALINGUISTICS = "Paralinguistics"


def read(fields: Fields) -> Draft:
    """Domain: a column of the benchmark's own table, such as `Perception Phonology`; task: one of the 47."""
    lettered = [fields.record.get(name) for name in LETTERED]
    options = fields.checked_options(lettered) if fields.has(*LETTERED) else fields.options()
    area = fields.text("sub-category", required=False)
    if area != PARALINGUISTICS:
        area = fields.text("sub-sub-category", "sub-category", required=False)
    return Draft(
        id=fields.text("id"),
        prompt=fields.text("question"),
        answer=fields.answer_among(options, "answer_gt", "answer"),
        answer_kind=AnswerKind.CHOICE,
        sound=fields.sound("audio", "audio_path"),
        choices=options,
        domain=f"{fields.text('category')} {area}".strip(),
        task=fields.text("task_name"),
    )


BENCHMARK = Benchmark(
    name="mmsu",
    title="MMSU",
    files=("question/mmsu.jsonl", "mmsu.jsonl", "*.jsonl", "data/*.parquet", "*.parquet"),
    read=read,
    scoring=lambda judge: answer_by("mmsu"),
    source="huggingface.co/datasets/ddwang2000/MMSU; github.com/dingdongwang/MMSU (evaluate.py); arXiv 2506.04779",
)
