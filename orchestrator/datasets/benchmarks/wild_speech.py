"""WildSpeech-Bench (Wild Speech in the paper's table): 1,100 spoken requests of real users, answered freely.

Format: parquet of huggingface.co/datasets/tencent/WildSpeech-Bench: `audio` (the clip), user_query (what is said), taskType, checklist,
conversation_hash, modification_type, additional_info; fields as `main.py` of github.com/Tencent/WildSpeech-Bench names them. Scoring: its
`tools/api_judge.py` lets a language model give 1 to 10 points by a general checklist and the query's own: the reward `judge` with ten
levels on 0.1 to 1, so that 100 times the mean is the published figure (70.6 for Step-Audio-R1). Wording of rubric and levels is ours; the
authors judge a transcript of spoken replies, here the reply is text.
"""

from __future__ import annotations

from orchestrator.datasets.benchmarks.format import Benchmark, Draft, Fields, JudgeAccess
from rewards import RewardTerm
from rollout import AnswerKind

PROMPT = "Reply to the person in the recording."
GENERAL = (
    "The reply does what the user asks; anything else is a serious fault.",
    "What the reply claims is true; a false claim is a serious fault.",
    "The reply does not repeat itself at length; doing so is a serious fault.",
    "It is meant to be heard in a conversation.",
    "The points below guide the grading; a good reply need not cover them all.",
)
BANDS = (
    "of no use: many false claims or serious faults, or beside the point",
    "of some use: several false claims or serious faults",
    "useful in the main: small false claims or faults, or not all that was asked for",
    "does what was asked for: no fault that matters",
    "hardly to be bettered",
)
LEVELS = {str(points): points / 10 for points in range(1, 11)}
MEANINGS = {str(points): BANDS[(points - 1) // 2] for points in range(1, 11)}


def read(fields: Fields) -> Draft:
    """Task: what kind of request it is; domain: how the speech was made harder. There is no reference answer, only a rubric."""
    said, own = fields.text("user_query"), fields.text("checklist", required=False)
    points = "\n".join(f"- {point}" for point in GENERAL)
    return Draft(
        id=fields.text("id", "conversation_hash", required=False),
        prompt=PROMPT,
        answer="",
        answer_kind=AnswerKind.EXACT,
        sound=fields.sound("audio"),
        domain=fields.text("modification_type", required=False) or "plain",
        task=fields.text("taskType"),
        rubric=f"The user says: {said}\n\n{points}" + (f"\n\n{own}" if own else ""),
    )


def scoring(judge: JudgeAccess | None) -> tuple[RewardTerm, ...]:
    """Raises ValueError without a judge."""
    if judge is None:
        raise ValueError(
            "WildSpeech-Bench has no reference answers, a judge must grade the replies: give --judge-url and --judge-model"
        )
    parameters = {**judge.parameters, "prompt": "rubric", "levels": LEVELS, "meanings": MEANINGS}
    return (RewardTerm("judge", 1.0, "any", parameters),)


BENCHMARK = Benchmark(
    name="wild_speech",
    title="WildSpeech-Bench",
    files=("data/*.parquet", "*.parquet", "*.jsonl"),
    read=read,
    scoring=scoring,
    source="huggingface.co/datasets/tencent/WildSpeech-Bench; github.com/Tencent/WildSpeech-Bench (tools/api_judge.py); arXiv 2506.21875",
    graded=True,
)
