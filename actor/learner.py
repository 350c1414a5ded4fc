"""A model that is run and trained through Megatron's schedule: forward passes and optimizer steps over micro-batches.

Neighbours: `actor.trainer` owns one for the actor and one for the critic and brings the losses.
Invariants: a loss is a sum over tokens; Megatron divides it by the count (tokens, pairs) of all micro-batches and ranks; the same batches
on the same weights give the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeVar

import torch

from actor import phases
from actor.megatron.batch import MicroBatch
from actor.megatron.device import ensure_importable
from actor.megatron.model import AudioGPT
from actor.megatron.optimizer import Optimizer, build_optimizer, wrap
from actor.megatron.parallel import World
from actor.specs import OptimSpec

ensure_importable()

from megatron.core.distributed import finalize_model_grads  # noqa: E402
from megatron.core.pipeline_parallel import get_forward_backward_func  # noqa: E402

Output = TypeVar("Output")


class TrainingDiverged(RuntimeError):
    """A loss or gradient is no finite number; the message says which and what to do."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Of one micro-batch. total: summed over its tokens, or whatever has the gradient of that sum; sums: quantities to report,
    summed over its tokens (detached); per_sequence: named [R] tensors by member that the caller wants back; count: what it
    adds to the normaliser of the step, None for its response tokens."""

    total: torch.Tensor
    sums: dict[str, torch.Tensor]
    per_sequence: dict[str, dict[int, torch.Tensor]] = field(default_factory=dict)
    count: int | None = None


@dataclass(frozen=True, slots=True)
class StepResult:
    """sums: over this rank's tokens; per_sequence: of this rank's sequences; both empty on a pipeline stage before the last."""

    sums: dict[str, float]
    per_sequence: dict[str, dict[int, torch.Tensor]]
    grad_norm: float
    lr: float


@torch.no_grad()
def forward(
    model: torch.nn.Module, batches: Sequence[MicroBatch], read: Callable[[Any, MicroBatch], Output]
) -> list[Output]:
    """`read(output, batch)` of each micro-batch, without gradients; nothing on a pipeline stage before the last."""
    numbers = count(1)

    def step(data: Any, module: torch.nn.Module) -> tuple[Any, Callable[..., Output]]:
        batch = next(data)
        phases.enter("log-prob forward", f"{next(numbers)}/{len(batches)}")
        output = module(batch)
        return output, lambda output, non_loss_data: read(output, batch)

    return get_forward_backward_func()(
        forward_step_func=step,
        data_iterator=iter(batches),
        model=[model],
        num_microbatches=len(batches),
        seq_length=1,  # stages tell each other the true sizes
        micro_batch_size=1,
        forward_only=True,
        collect_non_loss_data=True,
    )


def _at_backward(tensor: torch.Tensor, number: str) -> torch.Tensor:
    """`tensor`; a backward pass that comes to it says so. number: of its micro-batch."""

    def say(_: torch.Tensor) -> None:
        phases.enter("backward", number)

    if tensor.requires_grad:
        tensor.register_hook(say)
    return tensor


class Learner:
    """One trained model on this rank. world: its layout, in place while it is built and stepped; offload, fused: see
    `build_optimizer`."""

    def __init__(
        self, model: AudioGPT, dtype: torch.dtype, world: World, *, offload: bool = False, fused: bool = False
    ) -> None:
        self.model = model
        self.world = world
        with world.active():
            self.ddp = wrap(model)
        model.config.finalize_model_grads_func = finalize_model_grads
        self._dtype = dtype
        self._offload, self._fused = offload, fused
        self.optimizer: Optimizer | None = None

    def reset_optimizer(self, spec: OptimSpec) -> None:
        """Zero moments, schedule from its start."""
        with self.world.active():
            self.optimizer = None  # its memory goes before the next one's comes
            self.optimizer = build_optimizer(self.ddp, spec, self._dtype, offload=self._offload, fused=self._fused)

    def update(
        self,
        batches: Sequence[MicroBatch],
        loss: Callable[[Any, MicroBatch], Loss],
        **forward_options: Any,
    ) -> StepResult:
        """One optimizer step over `batches`. Raises TrainingDiverged when a loss or the gradient is not finite."""
        if self.optimizer is None:
            raise RuntimeError("this learner has no optimizer; call reset_optimizer first")
        numbers = count(1)

        def step(
            data: Any, module: torch.nn.Module
        ) -> tuple[Any, Callable[[Any], tuple[torch.Tensor, torch.Tensor, Any]]]:
            batch, number = next(data), f"{next(numbers)}/{len(batches)}"
            phases.enter("forward", number)

            def reduce(output: Any) -> tuple[torch.Tensor, torch.Tensor, Any]:
                result = loss(output, batch)
                total = result.total if batch.counts else result.total * 0.0
                normaliser = len(batch.targets_T) if result.count is None else result.count
                return (
                    _at_backward(total, number),
                    torch.tensor(normaliser if batch.counts else 0, dtype=torch.int, device=total.device),
                    result if batch.counts else None,
                )

            output = module(batch, **forward_options)
            return (_at_backward(output, number) if isinstance(output, torch.Tensor) else output), reduce

        self.ddp.zero_grad_buffer()
        self.optimizer.megatron.zero_grad()
        with self.world.active():
            results: list[Loss | None] = get_forward_backward_func()(
                forward_step_func=step,
                data_iterator=iter(batches),
                model=[self.ddp],
                num_microbatches=len(batches),
                seq_length=1,
                micro_batch_size=1,
                forward_only=False,
            )
        sums: dict[str, float] = {}
        per_sequence: dict[str, dict[int, torch.Tensor]] = {}
        for result in results:
            if result is None:
                continue
            for name, value in result.sums.items():
                sums[name] = sums.get(name, 0.0) + float(value)
            for name, values in result.per_sequence.items():
                per_sequence.setdefault(name, {}).update(values)
        bad = [f"{name}={value}" for name, value in sums.items() if not math.isfinite(value)]
        if bad:
            raise TrainingDiverged(
                f"{', '.join(bad)} is not a finite number; no step was taken. Resume from the last checkpoint with a lower "
                "learning rate or a tighter clip_grad"
            )
        phases.enter("optimizer step")
        with self.world.active():
            grad_norm, lr = self.optimizer.step()
        if not math.isfinite(grad_norm):
            raise TrainingDiverged(
                f"the gradient norm is {grad_norm}; resume from the last checkpoint with a lower learning rate"
            )
        return StepResult(sums, per_sequence, grad_norm, lr)
