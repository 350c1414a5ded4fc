"""verl's advantage estimators and policy losses by name, behind our shapes. The only module that imports verl.

Neighbours: `actor.advantages` and `actor.losses` come here for every name that is not ours.
Invariants: verl is imported when a name is looked up, never before (5-10 s); masks go in as float; a policy loss is
rescaled so that micro-batches and ranks add up to verl's value over the whole optimizer step.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from actor.advantages import EstimatorError
from actor.losses import PolicyInput, PolicyLoss
from actor.specs import PPOSpec

# verl's "vanilla" caps the loss of negative advantages at this ratio (dual clip); our spec has no such bound.
NO_DUAL_CLIP = 1e9
# These average over the sequences they are given, whatever the size of the optimizer step.
AVERAGED_OVER_MICRO_BATCH = frozenset({"geo_mean"})


def verl_advantages(
    spec: PPOSpec, rewards_B: torch.Tensor, values_BT: torch.Tensor, mask_BT: torch.Tensor, groups: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Advantages and returns [B, T] from verl's estimator of that name, 0 outside the mask.

    Raises EstimatorError when verl does not know the name or the estimator wants an input that we do not have.
    """
    from verl.trainer.config import AlgoConfig
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY

    name = spec.advantage_estimator
    estimator = ADV_ESTIMATOR_REGISTRY.get(name)
    if estimator is None:
        known = ", ".join(sorted(str(getattr(key, "value", key)) for key in ADV_ESTIMATOR_REGISTRY))
        raise EstimatorError(f"unknown advantage estimator {name!r}; ours: gae; verl's: {known}")
    token_rewards_BT = torch.zeros_like(mask_BT)
    last_B = mask_BT.sum(1).long() - 1
    token_rewards_BT[torch.arange(len(last_B)), last_B] = rewards_B
    available = {
        "token_level_rewards": token_rewards_BT,
        "response_mask": mask_BT,
        "values": values_BT,
        "index": np.array(list(groups), dtype=object),
        "gamma": spec.gamma,
        "lam": spec.lam,
        "config": AlgoConfig(gamma=spec.gamma, lam=spec.lam, adv_estimator=name),
    }
    parameters = inspect.signature(estimator).parameters
    wanted = {key: value for key, value in available.items() if key in parameters}
    missing = [
        key
        for key, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty
        and parameter.kind is not inspect.Parameter.VAR_KEYWORD
        and key not in available
    ]
    if missing:
        raise EstimatorError(
            f"advantage estimator {name!r} needs {', '.join(missing)}, which a policy update does not have"
        )
    advantages_BT, returns_BT = estimator(**wanted)
    return advantages_BT * mask_BT, returns_BT * mask_BT


def verl_policy_loss(spec: PPOSpec) -> PolicyLoss:
    """verl's policy loss of that name as a sum over tokens. Raises ValueError for an unknown name."""
    from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY
    from verl.workers.config import ActorConfig

    function = POLICY_LOSS_REGISTRY.get(spec.policy_loss)
    if function is None:
        known = ", ".join(sorted(POLICY_LOSS_REGISTRY))
        raise ValueError(f"unknown policy loss {spec.policy_loss!r}; ours: ppo; verl's: {known}")
    settings: dict[str, Any] = {
        "strategy": "megatron",
        "rollout_n": 1,
        "use_dynamic_bsz": True,
        "clip_ratio": spec.clip_low,
        "clip_ratio_low": spec.clip_low,
        "clip_ratio_high": spec.clip_high,
        "clip_ratio_c": NO_DUAL_CLIP,
        "loss_agg_mode": spec.loss_agg,
    }

    def loss(data: PolicyInput) -> torch.Tensor:
        config = ActorConfig(
            **settings,
            global_batch_info={"batch_num_tokens": data.step_tokens, "global_batch_size": data.step_sequences},
        )
        mask_BT = (torch.arange(max(data.lengths))[None] < torch.tensor(list(data.lengths))[:, None]).to(
            data.logprobs_T.device
        )

        def padded(values_T: torch.Tensor) -> torch.Tensor:
            return torch.zeros(mask_BT.shape, device=values_T.device).masked_scatter(mask_BT, values_T)

        # verl's registry promises this order of positional arguments.
        value, _ = function(
            padded(data.old_logprobs_T),
            padded(data.logprobs_T),
            padded(data.advantages_T),
            mask_BT.float(),
            spec.loss_agg,
            config,
            None,
        )
        share = len(data.lengths) / data.step_sequences if spec.policy_loss in AVERAGED_OVER_MICRO_BATCH else 1.0
        return value * share * data.step_tokens

    return loss
