"""What a checkpoint says of the stage it was saved in, and whether a trainer can go on with it.

Neighbours: `actor.trainer` writes the file and reads it here, as does `actor.critic_trainer`. Invariant: nothing is changed in a
trainer before this has agreed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from actor.seal import CheckpointError
from actor.specs import PPOSpec, StageSettings, TrainerSpec

META_FILE = "trainer.json"


class TrainerError(RuntimeError):
    """A call the trainer cannot serve in its present state; the message says which call comes first."""


def described(spec: TrainerSpec) -> dict[str, Any]:
    """What a reader of a checkpoint must know of the models in it, for its seal."""
    return {
        "model_path": spec.model_path,
        "dtype": spec.dtype,
        "lora_rank": spec.lora_rank,
        "lora_alpha": spec.lora_alpha,
    }


def stored_settings(root: Path, settings: StageSettings | None, spec: TrainerSpec) -> tuple[StageSettings, PPOSpec]:
    """What the stage goes on with: `settings`, or where they are None what the checkpoint stores; and its PPO settings.

    Raises CheckpointError for a checkpoint without them, TrainerError for settings of another stage or that this trainer cannot
    work with.
    """
    try:
        stored = StageSettings.from_json(json.loads((root / META_FILE).read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{root} holds no complete trainer checkpoint: {error}") from error
    chosen = settings or stored
    if chosen.stage != stored.stage:
        raise TrainerError(
            f"{root} was saved in stage {stored.stage!r} and cannot go on in stage {chosen.stage!r}; load it with its own "
            "settings, then call reset_optimizer"
        )
    try:
        return chosen, chosen.ppo_spec(spec)
    except ValueError as error:
        raise TrainerError(f"{root} cannot be continued by this trainer: {error}") from error
