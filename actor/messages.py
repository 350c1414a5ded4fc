"""What the training side speaks: experiences in, update reports and weights out.

Neighbours: `orchestrator` builds `Experience`s from trajectories and verdicts, `actor.trainer` consumes them.
Invariant: token in, token out: ids are exactly those that were sampled; the reward sits on the last response token.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Experience:
    """One trajectory ready for training.

    prompt_ids: expanded, P tokens; response_ids: R tokens; rollout_logprobs: R values from the engine; reward: scalar for the
    last response token; feature_keys: cache keys of the encoder features; group: index of the question in the batch (samples
    of one question share it, for group-relative estimators).
    """

    trajectory_id: str
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    rollout_logprobs: tuple[float, ...]
    reward: float
    feature_keys: tuple[str, ...]
    group: int


@dataclass(frozen=True, slots=True)
class SftExample:
    """One supervised sequence: loss on response tokens only."""

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    feature_keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """What one policy update (or SFT step) did: metrics by name, seconds by phase (`log_probs`, `update`)."""

    metrics: dict[str, float]
    seconds: dict[str, float] = field(default_factory=dict)
