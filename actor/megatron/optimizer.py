"""Megatron's distributed optimizer and its schedule, also without Apex and Transformer Engine.

Neighbours: `actor.trainer` builds one a trained model and stage; `actor.megatron.checkpoint` saves it.
Invariants: optimizer state has the layout that Apex and Transformer Engine give it (`step` in the parameter group), so that
checkpoints move between machines with and without them; the learning rate of update k (from 1) is set before the update;
what is trained with (rates, betas, decay) is the spec's that an optimizer was built from, never a checkpoint's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from actor.megatron.device import ensure_importable
from actor.specs import OptimSpec

ensure_importable()

import megatron.core.optimizer as megatron_optimizer  # noqa: E402
import megatron.core.optimizer.distrib_optimizer as distributed_optimizer  # noqa: E402
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig  # noqa: E402
from megatron.core.optimizer import MegatronOptimizer, OptimizerConfig, get_megatron_optimizer  # noqa: E402
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler  # noqa: E402


class GroupStepAdam(torch.optim.Optimizer):
    """AdamW with one step counter a parameter group, as Apex's FusedAdam keeps it."""

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        adam_w_mode: bool = True,
        **_: Any,
    ) -> None:
        if not adam_w_mode:
            raise ValueError("GroupStepAdam decouples weight decay; adam_w_mode=False is not supported")
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "bias_correction": True}
        super().__init__(params, defaults)

    def start_all_moments(self) -> None:
        """Zero moments and step 0 for every parameter now, so that a checkpoint before the first update is complete."""
        for group in self.param_groups:
            group.setdefault("step", 0)
            self._start_moments(group["params"])

    def _start_moments(self, params: Iterable[torch.Tensor]) -> None:
        for p in params:
            if "exp_avg" not in self.state[p]:
                self.state[p].update(exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            grads = [p.grad for p in params]
            self._start_moments(params)
            first = [self.state[p]["exp_avg"] for p in params]
            second = [self.state[p]["exp_avg_sq"] for p in params]
            (beta1, beta2), lr, step = group["betas"], group["lr"], group["step"]
            if group["weight_decay"]:
                torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
            torch._foreach_lerp_(first, grads, 1 - beta1)
            torch._foreach_mul_(second, beta2)
            torch._foreach_addcmul_(second, grads, grads, 1 - beta2)
            denominator = torch._foreach_sqrt(second)
            torch._foreach_div_(denominator, (1 - beta2**step) ** 0.5)
            torch._foreach_add_(denominator, group["eps"])
            torch._foreach_addcdiv_(params, first, denominator, -lr / (1 - beta1**step))


def _use_group_step_adam() -> None:
    """Give Megatron an Adam where it found neither Apex nor Transformer Engine.

    Its own fallback, torch's AdamW, keeps `step` a parameter, which the distributed optimizer cannot load again; and
    loading copies into views of leaf parameters, which needs no_grad in float32.
    """
    if not megatron_optimizer.USING_PYTORCH_OPTIMIZER:
        return
    megatron_optimizer.Adam = GroupStepAdam
    megatron_optimizer.USING_PYTORCH_OPTIMIZER = False
    distributed_optimizer.Adam = GroupStepAdam
    distributed_optimizer.HAVE_APEX_OR_TE = True
    distributed_optimizer.USING_APEX_OPTIMIZER = True
    cls = distributed_optimizer.DistributedOptimizer
    cls.load_state_dict = torch.no_grad()(cls.load_state_dict)


# What a checkpoint's parameter groups bring along but the spec decides; the schedule writes `lr` and `weight_decay`.
OWN_HYPERPARAMETERS = ("max_lr", "min_lr", "betas", "eps")


@dataclass(slots=True)
class Optimizer:
    """A distributed optimizer with its schedule."""

    megatron: MegatronOptimizer
    schedule: OptimizerParamScheduler

    def step(self) -> tuple[float, float]:
        """One update from the gradients in DDP's buffers; gradient norm before clipping, learning rate used."""
        self.schedule.step(1)
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


def build_optimizer(ddp: DistributedDataParallel, spec: OptimSpec, dtype: torch.dtype) -> Optimizer:
    """A fresh optimizer (zero moments, step 0) over the trained parameters of `ddp`."""
    _use_group_step_adam()
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
    for part in getattr(megatron, "chained_optimizers", [megatron]):
        if isinstance(part.optimizer, GroupStepAdam):
            part.optimizer.start_all_moments()
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
    return Optimizer(megatron, schedule)
