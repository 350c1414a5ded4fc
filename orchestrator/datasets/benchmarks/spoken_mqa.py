"""Spoken-MQA: spoken mathematical questions, from plain arithmetic to several steps in context.

Format: parquet of huggingface.co/datasets/amao0o0/spoken-mqa in the splits short_digit, long_digit, single_step_reasoning and
multi_step_reasoning: `context` (the clip), `context_transcript`, `instruction` and `answer` (objects with `text`). Scoring:
accuracy by the rule of AudioBench (github.com/AudioLLMs/AudioBench, src/dataset_src/spoken_mqa.py), which the authors use: the
number after "the answer is", else the last one; a reference with `####` holds its number behind it.
"""

from __future__ import annotations

from orchestrator.datasets.benchmarks.format import Benchmark, Draft, Fields, Sound, answer_by
from rewards import reference_faults
from rollout import AnswerKind

SPLITS = ("short_digit", "long_digit", "single_step_reasoning", "multi_step_reasoning")
PROMPT = "Solve the problem in the recording."


def read(fields: Fields) -> Draft:
    """Task: the split, which the file's name or folder gives."""
    answer = fields.inner_text("answer").rpartition("####")[2].replace(",", "").strip()
    fields.faults += reference_faults(AnswerKind.NUMBER, answer) if answer else []
    instruction = fields.inner_text("instruction") if fields.has("instruction") else PROMPT
    split = next((name for name in SPLITS if str(fields.record.get("@file", "")).startswith(name)), "")
    return Draft(
        id=fields.text("id", required=False),
        prompt=instruction,
        answer=answer,
        answer_kind=AnswerKind.NUMBER,
        sound=_sound(fields),
        domain="speech",
        task=split or fields.text("split", required=False),
        split=split,
    )


def _sound(fields: Fields) -> Sound:
    """`context` is one recording, in some copies a list of one."""
    context = fields.record.get("context")
    if isinstance(context, list) and len(context) == 1:
        inner = Fields({"context": context[0]})
        sound = inner.sound("context")
        fields.faults += inner.faults
        return sound
    return fields.sound("context", "audio")


BENCHMARK = Benchmark(
    name="spoken_mqa",
    title="Spoken-MQA",
    files=("data/*.parquet", "*.parquet", "*.jsonl"),
    read=read,
    scoring=lambda judge: answer_by("spoken_mqa"),
    source="huggingface.co/datasets/amao0o0/spoken-mqa; github.com/AudioLLMs/AudioBench; arXiv 2505.15000",
)
