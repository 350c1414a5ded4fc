"""The MLP's gate: the numbers of composed torch ops, with fewer tensors kept."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from actor.megatron.swiglu import Swiglu


def test_the_gradient_is_that_of_finite_differences() -> None:
    torch.manual_seed(0)
    gate_up = torch.randn(3, 2, 10, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Swiglu.apply, gate_up)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_output_and_gradient_are_those_of_composed_ops(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    values, grad = torch.randn(7, 1, 64, dtype=dtype), torch.randn(7, 1, 32, dtype=dtype)
    results = []
    for ours in (True, False):
        gate_up = values.clone().requires_grad_()
        gate, up = gate_up.chunk(2, -1)
        out = Swiglu.apply(gate_up) if ours else F.silu(gate) * up
        out.backward(grad)
        results.append((out.detach(), gate_up.grad))
    for mine, composed in zip(*results, strict=True):
        torch.testing.assert_close(mine, composed)


def test_only_its_input_is_kept() -> None:
    kept: list[torch.Tensor] = []
    gate_up = torch.randn(5, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        Swiglu.apply(gate_up)
    assert [t.data_ptr() for t in kept] == [gate_up.data_ptr()]
