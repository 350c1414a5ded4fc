"""Supervised examples: a question and the response that a model shall learn to give to it.

Neighbours: `text_reasoning`, `conversations` and `hearing_prompts` make them, the stages that fine-tune read them, `mixing`
batches them. Invariants: a file is read whole or refused with every bad line; clip paths as in `jsonl`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.datasets.jsonl import (
    raise_problems,
    read_records,
    repeated_ids,
    with_absolute_paths,
    with_relative_paths,
    write_lines,
)
from orchestrator.datasets.recordings import with_examined_clips
from orchestrator.datasets.schema import Problem, check_record, question_of, unknown_field
from rollout.messages import Question
from rollout.model.tokenizer import SPECIAL_TOKENS

TASK_REASONING = "task_reasoning"  # math and logic with reasoning
CONVERSATION = "conversation"
AUDIO_DIRECT = "audio_direct"  # the answer alone, with the empty think form
AUDIO_REASONING = "audio_reasoning"
FIELDS = ("question", "reasoning", "reply", "source")


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One supervised example (Step-Audio-R1, section 3.1).

    reasoning: what stands in the think block, "" for the empty form; reply: what follows it; source: which part of the mixture it
    belongs to, `task_reasoning`, `conversation`, `audio_direct`, `audio_reasoning` or a name of the user's own.
    """

    question: Question
    reasoning: str
    reply: str
    source: str


def direct_audio(questions: Sequence[Question]) -> list[Demonstration]:
    """The reference answer of every audio question, without reasoning; text questions are left out."""
    return [Demonstration(q, "", q.answer, AUDIO_DIRECT) for q in questions if q.is_audio]


def read_demonstrations(path: str | Path) -> list[Demonstration]:
    """Examples of a JSONL file in its order, clip paths absolute, digests and lengths filled in.

    A line is `{"question": {…}, "reasoning": "…", "reply": "…", "source": "…"}`, the question as in a file of questions; `reasoning`
    may be left out. Raises DataError that names every bad line and clip, as `load_questions` does. An id may come again
    with another response to the same question.
    """
    path = Path(path).absolute()
    problems: list[Problem] = []
    found: list[tuple[int, Demonstration]] = []
    for line, record in read_records(path, problems):
        faults = check_demonstration(record)
        problems += [Problem(path, line, fault) for fault in faults]
        if not faults:
            question = with_absolute_paths(question_of(record["question"]), path.parent)
            rest = {"reasoning": record.get("reasoning", ""), "reply": record["reply"], "source": record["source"]}
            found.append((line, Demonstration(question, **rest)))
    if not found and not problems:
        problems.append(Problem(path, 0, "holds no demonstrations"))
    problems += _ids_of_two_questions(path, found)
    questions = with_examined_clips(path, [(line, item.question) for line, item in found], problems)
    raise_problems(path, problems)
    return [dataclasses.replace(item, question=q) for (_, item), q in zip(found, questions, strict=True)]


def write_demonstrations(path: Path, items: Iterable[Demonstration]) -> None:
    """Writes JSON lines whole or not at all; clip paths become relative to the file's folder. Raises OSError."""
    folder = path.absolute().parent
    write_lines(path, (_line(item, folder) for item in items))


def check_demonstration(record: object) -> list[str]:
    """Faults of one decoded line; [] means it can be read."""
    if not isinstance(record, dict):
        return ["a line must be one JSON object"]
    faults = [unknown_field(name, FIELDS) for name in record if name not in FIELDS]
    faults += [f"field '{name}' is missing" for name in FIELDS if name not in record and name != "reasoning"]
    for name in ("reasoning", "reply", "source"):
        value = record.get(name, "")
        if not isinstance(value, str):
            faults.append(f"field '{name}' must be text, not {type(value).__name__}")
        elif name in record and name != "reasoning" and not value.strip():
            faults.append(f"field '{name}' is empty")
        elif marks := [token for token in SPECIAL_TOKENS if token in value]:
            faults.append(f"field '{name}' holds the special token {marks[0]}; take it out")
    if "question" in record:
        faults += [f"question: {fault}" for fault in check_record(record["question"])]
    return faults


def _line(item: Demonstration, folder: Path) -> str:
    question = json.loads(with_relative_paths(item.question, folder).to_json())
    record = {"question": question, "reasoning": item.reasoning, "reply": item.reply, "source": item.source}
    return json.dumps(record, ensure_ascii=False, sort_keys=True)


def _ids_of_two_questions(path: Path, found: Sequence[tuple[int, Demonstration]]) -> list[Problem]:
    """A problem for every id that an earlier line gives to another question."""
    first: dict[str, Question] = {}
    different: list[tuple[int, Question]] = []
    for line, item in found:
        question = item.question
        if question.id not in first or question != first[question.id]:
            different.append((line, question))
        first.setdefault(question.id, question)
    return repeated_ids(path, different)
