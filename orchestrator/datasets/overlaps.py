"""What two files of one run must not share: ids, and whatever is both trained on and held out.

Neighbours: `data_stage` asks before anything starts; `identity` says which prompts are the same. Invariants: pure; every pair of files
is compared, every kind of overlap found, each named with its number and a few examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path

from orchestrator.datasets.identity import prompt_digest
from orchestrator.datasets.schema import DataError, Problem
from rollout.messages import Question

HELD_OUT = ("held_out", "text_held_out")
DEMONSTRATED = "conversations"  # may show how a training question is answered, under its id
EXAMPLES = 3


def check_overlaps(questions: Mapping[str, Sequence[Question]], files: Mapping[str, Path]) -> None:
    """Raises DataError that names both files of every overlap. questions, files: by role, clips examined."""
    problems = overlaps(questions, files)
    if problems:
        raise DataError(
            "files of this run share what each must have for itself; rename the ids, and take what is held out out of the training "
            "files (or the reverse):",
            problems,
        )


def overlaps(questions: Mapping[str, Sequence[Question]], files: Mapping[str, Path]) -> list[Problem]:
    """One problem for every kind of overlap of two roles: an id that both use (unless a demonstration shows the very same training
    question); and, where one of them is trained on and the other held out, a clip by its digest, or a question without clips of the
    same words, choices and earlier turns."""
    found = []
    for one, other in combinations(questions, 2):
        border = (one in HELD_OUT) != (other in HELD_OUT)
        for what, shared in _shared(questions[one], questions[other], border, DEMONSTRATED in (one, other)):
            rest = f" and {len(shared) - EXAMPLES} more" if len(shared) > EXAMPLES else ""
            examples = ", ".join(shared[:EXAMPLES]) + rest
            found.append(Problem(files[one], 0, f"({one}) shares {what} with {files[other]} ({other}): {examples}"))
    return found


def _shared(
    one: Sequence[Question], other: Sequence[Question], border: bool, demonstrated: bool
) -> Iterator[tuple[str, list[str]]]:
    """(what, examples) of each kind of overlap that there is."""
    by_id = {question.id: question for question in one}
    ids = {q.id: repr(q.id) for q in other if q.id in by_id and not (demonstrated and _same(q, by_id[q.id]))}
    if ids:
        yield "ids", list(ids.values())
    if not border:
        return
    clips = {clip.sha256: question.id for question in one for clip in question.clips}
    heard = {
        c.sha256: f"{c.path} (of {clips[c.sha256]!r} and {q.id!r})" for q in other for c in q.clips if c.sha256 in clips
    }
    if heard:
        yield "clips", list(heard.values())
    asked = {prompt_digest(question): question.id for question in one if not question.is_audio}
    texts = {d: f"{q.prompt!r} ({asked[d]!r} and {q.id!r})" for q in other if (d := prompt_digest(q)) in asked}
    if texts:
        yield "questions", list(texts.values())


def _same(one: Question, other: Question) -> bool:
    return prompt_digest(one) == prompt_digest(other)
