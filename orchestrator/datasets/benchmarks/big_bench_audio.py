"""Big Bench Audio: 1,000 spoken reasoning questions in four categories of Big Bench Hard.

Format: metadata.jsonl of huggingface.co/datasets/ArtificialAnalysis/big_bench_audio, one record a line of id, category, official_answer,
file_name, with mp3 clips in data/; parquet copies embed the clip as `audio`. The whole question is spoken. Scoring: Artificial Analysis
lets a language model compare the reply with the official answer (huggingface.co/blog/big-bench-audio-release): the reward `judge`. Without
a judge the last of the possible answers that the reply names decides (`rules: big_bench_audio`), which is ours.
"""

from __future__ import annotations

from orchestrator.datasets.benchmarks.format import Benchmark, Draft, Fields, JudgeAccess, answer_by
from rewards import RewardTerm
from rollout import AnswerKind

PROMPT = "Answer the question in the recording."
ANSWERS = {  # what an official answer may be; object_counting has numbers
    "formal_fallacies": ("valid", "invalid"),
    "navigate": ("Yes", "No"),
    "web_of_lies": ("Yes", "No"),
    "object_counting": (),
}
LEVELS = {"incorrect": 0.0, "correct": 1.0}
MEANINGS = {"incorrect": "another answer, or none", "correct": "the same answer, in whatever words"}


def read(fields: Fields) -> Draft:
    """Task: the category."""
    category = fields.one_of(list(ANSWERS), "category")
    known = ANSWERS.get(category, ())
    answer = fields.one_of(known, "official_answer") if known else fields.text("official_answer")
    if category and not known and answer and not answer.isdigit():
        fields.faults.append(f"field 'official_answer' of {category} is {answer!r}, no whole number")
    number = fields.text("id", required=False)
    return Draft(
        id=f"{category}-{number}" if number else "",
        prompt=PROMPT,
        answer=answer,
        answer_kind=AnswerKind.EXACT if known else AnswerKind.NUMBER,
        sound=fields.sound("audio", "file_name"),
        domain="speech",
        task=category,
        source="Big Bench Hard",
    )


def scoring(judge: JudgeAccess | None) -> tuple[RewardTerm, ...]:
    if judge is None:
        return answer_by("big_bench_audio")
    return (RewardTerm("judge", 1.0, "any", {**judge.parameters, "levels": LEVELS, "meanings": MEANINGS}),)


BENCHMARK = Benchmark(
    name="big_bench_audio",
    title="Big Bench Audio",
    files=("metadata.jsonl", "data/*.parquet", "*.parquet"),
    read=read,
    scoring=scoring,
    source="huggingface.co/datasets/ArtificialAnalysis/big_bench_audio; huggingface.co/blog/big-bench-audio-release",
)
