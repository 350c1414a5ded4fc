"""RMS norm that keeps its input and one number a row for the backward pass, on every device.

Neighbours: `actor.megatron.model` puts it into the layer spec. Invariants: computed in float32 whatever the model's dtype; on CUDA it is
torch's own kernel, on a CPU, where torch composes it out of ten operations, an autograd function of the same formula and the same
memory.
"""

from __future__ import annotations

from typing import Any

import torch

from actor.megatron.device import ensure_importable

ensure_importable()

from megatron.core.transformer.transformer_config import TransformerConfig  # noqa: E402


class RMSNorm(torch.nn.RMSNorm):
    """With the constructor that Megatron's layer spec calls."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        # Under sequence parallelism each rank sees some rows only: Megatron sums such gradients over tensor-parallel ranks.
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., H], same shape out."""
        if x.is_cuda:
            return super().forward(x)
        return _RmsNorm.apply(x, self.weight, self.eps)


class _RmsNorm(torch.autograd.Function):
    """y = x r w with r = (mean(x^2) + eps)^(-1/2) (Zhang and Sennrich 2019, arXiv 1910.07467). With g the gradient of y and x^ = x r:
    dw = sum over rows of g x^, dx = r (g w - x^ mean(g w x^))."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight_H: torch.Tensor, eps: float) -> torch.Tensor:
        wide = x.float()
        r = (torch.linalg.vecdot(wide, wide) / x.shape[-1] + eps).rsqrt_()[..., None]
        ctx.save_for_backward(x, weight_H, r)
        return (wide * r).mul_(weight_H).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight_H, r = ctx.saved_tensors
        grad = gradients[0].float()
        normed = x.float() * r
        x_grad = weight_grad_H = None
        if ctx.needs_input_grad[0]:
            wide = grad * weight_H
            mean = torch.linalg.vecdot(wide, normed)[..., None] / x.shape[-1]
            x_grad = wide.addcmul_(normed, mean, value=-1).mul_(r).to(x.dtype)
        if ctx.needs_input_grad[1]:
            weight_grad_H = normed.mul_(grad).flatten(0, -2).sum(0).to(weight_H.dtype)
        return x_grad, weight_grad_H, None
