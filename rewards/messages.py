"""What the reward side says: specifications in, verdicts out.

Neighbours: `rewards.service` makes `Verdict`s, `actor` and `orchestrator` read them.
Invariant: a score that could not be computed is `valid=False` with a reason, never 0.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement on one trajectory.

    score: composed reward (None when invalid); components: each reward function's own score, unweighted; reason: why it is
    invalid, else empty. Raises ValueError when a valid verdict has no finite score or an invalid one has no reason.
    """

    valid: bool
    score: float | None
    components: dict[str, float] = field(default_factory=dict)
    reason: str = ""

    def __post_init__(self) -> None:
        if self.valid and (self.score is None or not math.isfinite(self.score)):
            raise ValueError(f"a valid verdict needs a finite score, got {self.score!r}; use Verdict.invalid(reason)")
        if not self.valid and (self.score is not None or not self.reason):
            raise ValueError("an invalid verdict has no score and says why: Verdict.invalid(reason)")

    @classmethod
    def invalid(cls, reason: str, components: dict[str, float] | None = None) -> Verdict:
        return cls(valid=False, score=None, components=components or {}, reason=reason)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str | bytes) -> Verdict:
        return cls(**json.loads(line))


@dataclass(frozen=True, slots=True)
class RewardTerm:
    """One function in the composed reward: registered name, weight, which modality it counts for, its parameters."""

    name: str
    weight: float
    modality: str  # "audio" | "text" | "any"
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RewardSpec:
    """The whole reward of an experiment. timeout_s: limit for one sample in one function; memory_mb: limit of a child process."""

    terms: tuple[RewardTerm, ...]
    timeout_s: float
    memory_mb: int
    workers: int


@dataclass(frozen=True, slots=True)
class Sample:
    """What a reward function sees of one trajectory: the question's fields and the response split into reasoning and reply.

    reasoning: text inside the think block, stripped ("" when empty or absent); reply: text after it; well_formed: exactly one
    closed think block at the start and nothing before it; question: `dataclasses.asdict` of the Question.
    """

    trajectory_id: str
    question: dict[str, Any]
    text: str
    reasoning: str
    reply: str
    well_formed: bool
    finished: bool
    response_tokens: int
    reasoning_tokens: int
