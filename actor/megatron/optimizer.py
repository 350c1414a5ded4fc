"""Megatron's distributed optimizer and its schedule, also without Apex and Transformer Engine.

Neighbours: `actor.learner` builds one a trained model and stage, around an Adam of `actor.megatron.adam` or a fused one;
`actor.megatron.checkpoint` saves it.
Invariants: optimizer state has the layout that Apex and Transformer Engine give it (`step` in the parameter group), so that
checkpoints move between machines with and without them; the learning rate of update k (from 1) is set before the update;
what is trained with (rates, betas, decay) is the spec's that an optimizer was built from, never a checkpoint's.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from actor.megatron.adam import GroupStepAdam, HostMasters, OffloadedAdam
from actor.megatron.device import ensure_importable
from actor.specs import OptimSpec

ensure_importable()

import megatron.core.optimizer as megatron_optimizer  # noqa: E402
import megatron.core.optimizer.distrib_optimizer as distributed_optimizer  # noqa: E402
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig  # noqa: E402
from megatron.core.optimizer import MegatronOptimizer, OptimizerConfig, get_megatron_optimizer  # noqa: E402
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler  # noqa: E402

# Apex's or Transformer Engine's, which Megatron has found; None where it would fall back to torch's AdamW.
FUSED_ADAM = None if megatron_optimizer.USING_PYTORCH_OPTIMIZER else megatron_optimizer.Adam


def _give_megatron(adam: type[torch.optim.Optimizer]) -> None:
    """Have Megatron build `adam`, which keeps `step` in the parameter group as Apex and Transformer Engine do.

    Its own fallback, torch's AdamW, keeps `step` a parameter, which the distributed optimizer cannot load again.
    """
    megatron_optimizer.Adam = distributed_optimizer.Adam = adam
    megatron_optimizer.USING_PYTORCH_OPTIMIZER = False
    distributed_optimizer.HAVE_APEX_OR_TE = distributed_optimizer.USING_APEX_OPTIMIZER = True


# Loading copies into views of leaf parameters, which needs no_grad in float32.
distributed_optimizer.DistributedOptimizer.load_state_dict = torch.no_grad()(
    distributed_optimizer.DistributedOptimizer.load_state_dict
)

# What a checkpoint's parameter groups bring along but the spec decides; the schedule writes `lr` and `weight_decay`.
OWN_HYPERPARAMETERS = ("max_lr", "min_lr", "betas", "eps")


@dataclass(slots=True)
class Optimizer:
    """A distributed optimizer with its schedule. masters: float32 masters that lie in the machine's memory, where they do."""

    megatron: MegatronOptimizer
    schedule: OptimizerParamScheduler
    masters: HostMasters | None = None

    def step(self) -> tuple[float, float]:
        """One update from the gradients in DDP's buffers; gradient norm before clipping, learning rate used."""
        self.schedule.step(1)
        with self.masters.on_device() if self.masters is not None else nullcontext():
            _, norm, _ = self.megatron.step()
        return float(norm), float(self.megatron.param_groups[0]["lr"])

    def state(self, model_state: dict[str, Any], metadata: dict[str, Any], loading: bool) -> dict[str, Any]:
        """What a checkpoint holds of it, beside the model's own sharded state."""
        sharded = self.megatron.sharded_state_dict(model_state, is_loading=loading, metadata=metadata)
        return {"optimizer": sharded, "schedule": self.schedule.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """Moments and step counts of `state`, into a fresh optimizer; its own hyperparameters stay, and its own schedule goes
        on at the stored number of updates."""
        own = [{name: group[name] for name in OWN_HYPERPARAMETERS} for group in self.megatron.param_groups]
        self.megatron.load_state_dict(state["optimizer"])
        for part in _parts(self.megatron):
            if isinstance(part.optimizer, OffloadedAdam):
                part.optimizer.bring_home()
        for group, values in zip(self.megatron.param_groups, own, strict=True):
            group.update(values)
        self.schedule.load_state_dict(state["schedule"])


def wrap(model: torch.nn.Module) -> DistributedDataParallel:
    """Megatron's DDP with gradients in float32, sharded for the distributed optimizer."""
    config = DistributedDataParallelConfig(
        use_distributed_optimizer=True, grad_reduce_in_fp32=True, overlap_grad_reduce=False, check_for_nan_in_grad=False
    )
    ddp = DistributedDataParallel(model.config, config, model)
    ddp.broadcast_params()
    return ddp


def build_optimizer(
    ddp: DistributedDataParallel, spec: OptimSpec, dtype: torch.dtype, *, offload: bool = False, fused: bool = False
) -> Optimizer:
    """A fresh optimizer (zero moments, step 0) over the trained parameters of `ddp`. offload: moments and float32 masters lie in
    the machine's memory; fused: Apex's or Transformer Engine's Adam where Megatron has one and nothing is offloaded."""
    adam: type[torch.optim.Optimizer] = OffloadedAdam if offload else GroupStepAdam
    if fused and not offload and FUSED_ADAM is not None:
        adam = FUSED_ADAM
    _give_megatron(adam)
    config = OptimizerConfig(
        optimizer="adam",
        lr=spec.lr,
        min_lr=spec.min_lr,
        weight_decay=spec.weight_decay,
        adam_beta1=spec.beta1,
        adam_beta2=spec.beta2,
        adam_eps=spec.eps,
        clip_grad=spec.clip_grad,
        bf16=dtype == torch.bfloat16,
        params_dtype=dtype,
        use_distributed_optimizer=True,
    )
    megatron = get_megatron_optimizer(config, [ddp])
    for part in _parts(megatron):
        _start_all_moments(part)
    schedule = OptimizerParamScheduler(
        megatron,
        init_lr=0.0,
        max_lr=spec.lr,
        min_lr=spec.min_lr,
        lr_warmup_steps=spec.warmup_updates,
        lr_decay_steps=spec.decay_updates,
        lr_decay_style=spec.decay_style,
        start_wd=spec.weight_decay,
        end_wd=spec.weight_decay,
        wd_incr_steps=spec.decay_updates,
        wd_incr_style="constant",
        use_checkpoint_opt_param_scheduler=False,
        override_opt_param_scheduler=True,
    )
    return Optimizer(megatron, schedule, HostMasters(_masters(megatron)) if offload else None)


def _parts(megatron: MegatronOptimizer) -> list[Any]:
    """The optimizers that hold parameters of this rank."""
    parts = getattr(megatron, "chained_optimizers", [megatron])
    return [part for part in parts if part.optimizer is not None]


def _start_all_moments(part: Any) -> None:
    if isinstance(part.optimizer, GroupStepAdam):
        part.optimizer.start_all_moments()
        return
    part.init_state_fn(part.optimizer, part.config)
    for group in part.optimizer.param_groups:
        group.setdefault("step", 0)


def _masters(megatron: MegatronOptimizer) -> list[torch.Tensor]:
    """Float32 copies of this rank's shard of bfloat16 weights; none in float32, where the weights are stepped themselves."""
    return [
        master
        for part in _parts(megatron)
        for group in part.shard_fp32_from_float16_groups
        for master in group
        if master is not None
    ]
