"""What the training side speaks: experiences in, update reports and weights out.

Neighbours: `orchestrator` builds `Experience`s from trajectories and verdicts, `actor.trainer` consumes them.
Invariant: token in, token out: ids are exactly those that were sampled; the reward sits on the last response token.
"""

from __future__ import annotations

import math
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
    """One supervised sequence: loss on response tokens only. weight: of each of its tokens, in loss and normaliser."""

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    feature_keys: tuple[str, ...]
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two responses to one prompt, of which the first is preferred.

    reference_chosen, reference_rejected: summed log-probs (nats) of the whole response under the reference policy, taken once
    before the first step (`Trainer.reference_log_probs`) and kept with the pair; NaN until they are known.
    """

    pair_id: str
    prompt_ids: tuple[int, ...]
    chosen_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]
    feature_keys: tuple[str, ...]
    reference_chosen: float = math.nan
    reference_rejected: float = math.nan


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """What one policy update (or SFT step) did: metrics by name, seconds by phase (`log_probs`, `update`)."""

    metrics: dict[str, float]
    seconds: dict[str, float] = field(default_factory=dict)
