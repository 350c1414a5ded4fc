"""Which tasks need direct acoustic analysis, and which are about meaning (Step-Audio-R1, section 4.2).

Neighbours: `perceptual_tasks.json` lists the tasks of the data sets shipped here; the configuration may say otherwise.
Invariants: the rule is pure; a task that nobody listed is kept and counted, since the audio-contribution probe still follows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import lru_cache
from pathlib import Path

from orchestrator.errors import ConfigError
from rollout.messages import Question

TABLE = Path(__file__).with_name("perceptual_tasks.json")
KEPT, SEMANTIC_TASK, NO_CLIP, KEPT_UNLISTED = "kept", "semantic_task", "no_clip", "kept_unlisted"


class Need(StrEnum):
    """What answering takes. semantic: linguistic content, which a transcript holds as well."""

    ACOUSTIC = "acoustic"
    SEMANTIC = "semantic"


def perceptual_tasks(overrides: Mapping[str, str] | None = None, *, dataset: str = "acoustic_qa") -> dict[str, Need]:
    """The listed tasks of a data set ({} for one that is not listed), overridden and added to by `overrides` (task -> need).

    Raises ConfigError for a need that is neither `acoustic` nor `semantic`.
    """
    merged = {**_table().get(dataset, {}), **(overrides or {})}
    unknown = {task: need for task, need in merged.items() if need not in set(Need)}
    if unknown:
        raise ConfigError(f"what a task needs is {' or '.join(Need)}, not {unknown}; correct the table of tasks")
    return {task: Need(need) for task, need in merged.items()}


def by_metadata(questions: Sequence[Question], tasks: Mapping[str, Need]) -> tuple[list[Question], dict[str, int]]:
    """Audio questions whose task is not semantic, in their order, and how many went which way (adding up to all).

    A task that `tasks` does not know is kept, as `kept_unlisted`.
    """
    counts = {NO_CLIP: 0, SEMANTIC_TASK: 0, KEPT_UNLISTED: 0, KEPT: 0}
    kept = []
    for question in questions:
        if not question.is_audio:
            reason = NO_CLIP
        elif question.task not in tasks:
            reason = KEPT_UNLISTED
        else:
            reason = SEMANTIC_TASK if tasks[question.task] is Need.SEMANTIC else KEPT
        counts[reason] += 1
        if reason in (KEPT, KEPT_UNLISTED):
            kept.append(question)
    return kept, counts


@lru_cache(maxsize=1)
def _table() -> dict[str, dict[str, str]]:
    table: dict[str, dict[str, str]] = json.loads(TABLE.read_text(encoding="utf-8"))
    return table
