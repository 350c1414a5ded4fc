"""How many chains of a question and of a task are kept.

Neighbours: `chains` calls both after de-duplication. Without balance, distillation keeps mostly questions of recognition, where
chains are easily right. Invariants: pure; what stays is in the order it came, and who stays depends on ids and seed, not on order.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.distillation.dedupe import said, similarity
from orchestrator.errors import ConfigError
from orchestrator.seeds import derive
from orchestrator.stages.scoring import Scored

OVER_QUESTION_CAP, OVER_TASK_CAP = "over_question_cap", "over_task_cap"


@dataclass(frozen=True, slots=True)
class TaskBalance:
    """max_share: of all that is kept, that one task may have; max_ratio: chains of a task over those of the rarest task with any;
    at_least: chains that every task may keep whatever the two say. None: no limit.

    Raises ConfigError for a share outside 0..1, a ratio below 1 or a negative number.
    """

    max_share: float | None = None
    max_ratio: float | None = None
    at_least: int = 0

    def __post_init__(self) -> None:
        if self.max_share is not None and not 0.0 < self.max_share <= 1.0:
            raise ConfigError(f"max_share lies above 0 and at most 1, got {self.max_share}")
        if self.max_ratio is not None and not self.max_ratio >= 1.0:
            raise ConfigError(f"max_ratio is 1 or more, got {self.max_ratio}")
        if self.at_least < 0:
            raise ConfigError(f"at_least is 0 or more, got {self.at_least}")


def at_most_a_question(items: Sequence[Scored], most: int, seed: int) -> list[Scored]:
    """At most `most` responses a question: one drawn by the seed, then always the one least like those taken already.

    Raises ConfigError for fewer than one.
    """
    if most < 1:
        raise ConfigError(f"at least 1 chain a question must be allowed, got {most}")
    taken: set[int] = set()
    for indices in _grouped(items, lambda item: item.question.id).values():
        taken.update(_spread(items, indices, most, seed))
    return [item for index, item in enumerate(items) if index in taken]


def balance_tasks(items: Sequence[Scored], balance: TaskBalance, seed: int) -> list[Scored]:
    """No task over its cap (`task_cap`). Of a task over it, every question keeps one chain before any keeps two."""
    by_task = _grouped(items, lambda item: item.question.task)
    cap = task_cap({task: len(indices) for task, indices in by_task.items()}, balance)
    taken: set[int] = set()
    for indices in by_task.values():
        drawn = sorted(indices, key=lambda i: derive(seed, "balance", items[i].trajectory.id))
        turn: Counter[str] = Counter()
        turns = []
        for index in drawn:
            turns.append((turn[items[index].question.id], index))
            turn[items[index].question.id] += 1
        taken.update(index for _, index in sorted(turns, key=lambda entry: entry[0])[:cap])
    return [item for index, item in enumerate(items) if index in taken]


def task_cap(counts: Mapping[str, int], balance: TaskBalance) -> int:
    """The most items of one task, so that both limits hold among the tasks that have any.

    A share that so few tasks can't reach is met as closely as can be: every task as many as the rarest.
    """
    present = [count for count in counts.values() if count]
    if not present:
        return 0
    rarest, cap = min(present), max(present)
    if balance.max_ratio is not None:
        cap = min(cap, math.floor(balance.max_ratio * rarest))
    if balance.max_share is not None:
        while cap > rarest and cap > balance.max_share * sum(min(count, cap) for count in present) * (1 + 1e-12):
            cap -= 1
    return max(cap, balance.at_least)


def _spread(items: Sequence[Scored], indices: Sequence[int], most: int, seed: int) -> list[int]:
    left = sorted(indices, key=lambda i: derive(seed, "question", items[i].trajectory.id))
    if len(left) <= most:
        return left
    texts = {index: said(items[index]) for index in left}
    chosen = [left.pop(0)]
    while len(chosen) < most:
        nearest = {i: max(similarity(texts[i], texts[j]) for j in chosen) for i in left}
        chosen.append(min(left, key=lambda i: nearest[i]))
        left.remove(chosen[-1])
    return chosen


def _grouped(items: Sequence[Scored], key: Callable[[Scored], str]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = defaultdict(list)
    for index, item in enumerate(items):
        groups[key(item)].append(index)
    return groups
