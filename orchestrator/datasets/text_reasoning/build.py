"""Builds the data set of text problems: train.jsonl, held_out.jsonl, manifest.json.

Neighbours: `problems` draws, `verify` checks every answer, `folders` puts the files in place. Invariants: the same seed, sizes and
difficulty give the same bytes; a problem is held out or not whatever seed, size and difficulty, so that no two sets share a problem
across the border; a larger set holds a smaller one of the same seed; the folder appears whole or not at all.
"""

from __future__ import annotations

import dataclasses
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from orchestrator.datasets.demonstrations import TASK_REASONING, Demonstration
from orchestrator.datasets.folders import built_folder, write_manifest
from orchestrator.datasets.jsonl import write_questions
from orchestrator.datasets.schema import DataError
from orchestrator.datasets.text_reasoning.difficulty import EASY, Difficulty
from orchestrator.datasets.text_reasoning.problems import FAMILIES, Problem
from orchestrator.datasets.text_reasoning.reasoning import NAME, reasoning_of
from orchestrator.datasets.text_reasoning.verify import answer_again
from orchestrator.seeds import derive
from rollout.messages import Question

log = logging.getLogger(__name__)

VERSION = 2  # of the drawing: builds of another version hold other problems
TRAIN, HELD_OUT = 2000, 200  # questions
SPLITS = ("held_out", "train")
HELD_OUT_ONE_IN = 6  # problems; in all that can be drawn, not in a set
SOURCES = (  # that decide the bytes of a build
    "orchestrator.datasets.text_reasoning",
    "orchestrator.datasets.jsonl",
    "orchestrator.seeds",
    "rollout.messages",
)
FRUITLESS = (
    2000 * HELD_OUT_ONE_IN
)  # draws in a row without a new problem of a split: then a family has given what it has


def build_text_reasoning(
    out_dir: str | Path,
    seed: int,
    *,
    train: int = TRAIN,
    held_out: int = HELD_OUT,
    difficulty: Difficulty = EASY,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Builds the data set into `out_dir` and returns that folder.

    train, held_out: numbers of questions, spread evenly over the families (fewer of one that has no more different problems). An
    earlier build in `out_dir` is replaced. Raises DataError when the folder holds something else or cannot be written, or the
    families together have fewer problems than are wanted.
    """
    say = progress or log.info
    say(f"drawing {train} train and {held_out} held_out text problems")
    splits = text_questions(seed, {"held_out": held_out, "train": train}, difficulty)
    with built_folder(out_dir, NAME) as folder:
        for split, questions in splits.items():
            write_questions(folder / f"{split}.jsonl", questions)
        counts = {split: dict(Counter(q.task for q in questions)) for split, questions in splits.items()}
        more = {"version": VERSION, "difficulty": dataclasses.asdict(difficulty), "splits": counts}
        write_manifest(folder, NAME, seed, more)
    say(f"{train + held_out} text problems in {out_dir}")
    return Path(out_dir).absolute()


def text_questions(seed: int, sizes: dict[str, int], difficulty: Difficulty = EASY) -> dict[str, list[Question]]:
    """Questions by split (`train`, `held_out`), none of whose problems comes twice in all. What a split holds depends on its own size
    alone. Raises DataError as `build_text_reasoning`, ValueError for another split."""
    if unknown := sorted(set(sizes) - set(SPLITS)):
        raise ValueError(f"text problems have the splits {', '.join(SPLITS)}, not {', '.join(unknown)}")
    return {split: _questions(seed, split, size, difficulty) for split, size in sizes.items()}


def split_of(problem: Problem) -> str:
    """`held_out` for one problem in `HELD_OUT_ONE_IN`, by its key alone."""
    drawn = derive(0, NAME, problem.family, *map(str, problem.key))
    return "train" if drawn % HELD_OUT_ONE_IN else "held_out"


def _questions(seed: int, split: str, size: int, difficulty: Difficulty) -> list[Question]:
    streams = {name: _different(name, seed, split, difficulty) for name in FAMILIES}
    out: list[Question] = []
    while len(out) < size:
        if not streams:
            raise DataError(
                f"the families have {len(out)} different problems for {split} at {difficulty}, {size} are wanted; "
                "ask for fewer or raise `largest`"
            )
        for name in list(streams):
            problem = next(streams[name], None)
            if problem is None:
                del streams[name]
            elif len(out) < size:
                out.append(_question(problem, split, len(out)))
    random.Random(derive(seed, NAME, "order", split)).shuffle(out)
    return out


def text_demonstrations(questions: Sequence[Question]) -> list[Demonstration]:
    """Every question with its worked reasoning and the answer."""
    return [Demonstration(q, reasoning_of(q), q.answer, TASK_REASONING) for q in questions]


def _different(family: str, seed: int, split: str, difficulty: Difficulty) -> Iterator[Problem]:
    """A family's problems of a split, until `FRUITLESS` draws in a row bring none that is new."""
    rng = random.Random(derive(seed, NAME, family, split))
    seen: set[tuple[object, ...]] = set()
    fruitless = 0
    while fruitless < FRUITLESS:
        problem = FAMILIES[family](rng, difficulty)
        fruitless += 1
        if problem.key not in seen and split_of(problem) == split:
            seen.add(problem.key)
            fruitless = 0
            yield problem


def _question(problem: Problem, split: str, number: int) -> Question:
    """Raises DataError when working the problem out again gives another answer."""
    question = Question(
        id=f"{split}-text-{number:05d}",
        prompt=problem.prompt,
        answer=problem.answer,
        answer_kind=problem.answer_kind,
        choices=problem.choices,
        domain="text",
        task=problem.family,
        split=split,
        truth=problem.truth,
        dataset=NAME,
    )
    again = answer_again(question)
    if again != problem.answer:
        raise DataError(
            f"{problem.prompt!r}: drawn with the answer {problem.answer!r}, worked out again it is {again!r}"
        )
    return question
