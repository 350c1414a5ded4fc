"""The gate between the MLP's two linear layers, which keeps nothing but their own tensors for the backward pass.

Neighbours: `actor.megatron.model` puts it into the layer spec. Invariant: the same numbers as silu(gate) * up composed from torch ops;
between forward and backward live the first layer's output [N, 2F] and the second's input [N, F], where the composed form keeps two
more [N, F].
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from actor.megatron.device import ensure_importable

ensure_importable()

from megatron.core.transformer.module import MegatronModule  # noqa: E402


class Swiglu(torch.autograd.Function):
    """gate and up side by side [..., 2F] -> silu(gate) * up [..., F] (Shazeer 2020, arXiv 2002.05202)."""

    @staticmethod
    def forward(ctx: Any, gate_up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, -1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        (gate_up,) = ctx.saved_tensors
        (grad,) = gradients
        gate, up = gate_up.chunk(2, -1)
        result = torch.empty_like(gate_up)
        gate_grad, up_grad = result.chunk(2, -1)
        activated = F.silu(gate)
        torch.mul(grad, activated, out=up_grad)
        torch.mul(grad, up, out=activated)
        torch.ops.aten.silu_backward.grad_input(activated, gate, grad_input=gate_grad)
        return result


class Activation(MegatronModule):
    """What Megatron's MLP calls between its two linear layers."""

    def forward(self, gate_up: torch.Tensor) -> torch.Tensor:
        return Swiglu.apply(gate_up)
