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

from rewards.clips import recordings


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement on one trajectory.

    score: composed reward (None when invalid); components: each reward function's own score, unweighted, and what a function
    reported beside it (`name/part`); reason: why it is invalid, else empty; notes: text beside a component (a judge's
    rationale); seconds: wall time by function, not compared, since a verdict from the cache is the same verdict.
    Raises ValueError when a valid verdict has no finite score or an invalid one has no reason.
    """

    valid: bool
    score: float | None
    components: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    notes: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict, compare=False)

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
    """One function in the composed reward.

    modality: which questions it counts for; dataset: only for questions of this data set, there in place of the term of the
    same name without one ("" any); version: content hash it is pinned to, or a tag ("" what is installed).
    """

    name: str
    weight: float
    modality: str  # "audio" | "text" | "any"
    parameters: dict[str, Any] = field(default_factory=dict)
    dataset: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class JointTerm:
    """A term made of other terms' components: their product, least or mean; weight and modality as in RewardTerm."""

    name: str
    of: tuple[str, ...]
    how: str  # "product" | "least" | "mean"
    weight: float
    modality: str  # "audio" | "text" | "any"


@dataclass(frozen=True, slots=True)
class RewardSpec:
    """The whole reward of an experiment.

    Limits of one sample in one function: timeout_s wall, cpu_s CPU time (0: as timeout_s). Limits of a scoring process:
    memory_mb address space, open_files descriptors, threads. costs_file: where judges and other servers that are paid keep
    their ledger ("" in memory).
    """

    terms: tuple[RewardTerm, ...]
    timeout_s: float
    memory_mb: int
    workers: int
    joint: tuple[JointTerm, ...] = ()
    cpu_s: float = 0.0
    open_files: int = 256
    threads: int = 64
    costs_file: str = ""


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

    @property
    def reference(self) -> str:
        """The reference answer (for a choice: the right option's text)."""
        return self.question["answer"]

    @property
    def truth(self) -> dict[str, Any]:
        """The numbers behind the answer; empty when the data set has none."""
        return self.question.get("truth") or {}

    @property
    def rubric(self) -> str:
        return self.question.get("rubric") or ""

    @property
    def history(self) -> list[dict[str, Any]]:
        """Earlier turns, oldest first: `{"role", "text"}`, and `"audio"` where a turn has recordings."""
        return list(self.question.get("history") or ())

    @property
    def clips(self) -> tuple[Clip, ...]:
        """The recordings of all turns in the order of the prompt; a file is opened when its waveform is asked for."""
        return tuple(Clip(audio["path"], audio["seconds"]) for _, audio in recordings(self.question))


@dataclass(frozen=True, slots=True)
class Clip:
    """A recording as reward functions see it; seconds: decoded length."""

    path: str
    seconds: float

    def waveform(self, rate: int = 16_000) -> Any:
        """float32 [samples], mono at `rate` Hz, kept for the next call. Raises what reading the file raises."""
        from rewards.clips import load_waveform

        return load_waveform(self.path, rate)
