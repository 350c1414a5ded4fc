"""The trainer's RMS norm on a CPU: torch's numbers and gradients, two tensors kept."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from actor.megatron.norm import _RmsNorm

EPS = 1e-5


def test_the_gradient_is_that_of_finite_differences() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 1, 6, requires_grad=True)
    weight_H = torch.randn(6, requires_grad=True)
    # float32 inside: steps as wide as its precision asks for
    assert torch.autograd.gradcheck(
        lambda x, w: _RmsNorm.apply(x, w, EPS), (x, weight_H), eps=1e-2, atol=1e-2, rtol=1e-2
    )


@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_output_and_gradients_are_those_of_torch(dtype: torch.dtype, within: float) -> None:
    torch.manual_seed(0)
    x, weight_H, grad = 3 * torch.randn(64, 1, 32), torch.randn(32), torch.randn(64, 1, 32)
    results = []
    for kind in (dtype, torch.float64):
        inputs = [tensor.to(dtype).to(kind).detach().requires_grad_() for tensor in (x, weight_H)]
        out = _RmsNorm.apply(*inputs, EPS) if kind is dtype else F.rms_norm(inputs[0], (32,), inputs[1], EPS)
        out.backward(grad.to(dtype).to(kind))
        results.append([out.detach(), *(tensor.grad for tensor in inputs)])
    for ours, exact in zip(*results, strict=True):
        assert ours.dtype is dtype
        assert (ours.double() - exact).abs().max() <= within * exact.abs().max()


def test_a_frozen_norm_passes_the_gradient_on_and_has_none_itself() -> None:
    x, weight_H = torch.randn(4, 8, requires_grad=True), torch.ones(8)
    _RmsNorm.apply(x, weight_H, EPS).sum().backward()
    assert x.grad is not None
    assert weight_H.grad is None


def test_the_input_and_one_number_a_row_are_kept() -> None:
    kept: list[torch.Tensor] = []
    x, weight_H = torch.randn(4, 8, requires_grad=True), torch.ones(8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        _RmsNorm.apply(x, weight_H, EPS)
    assert sorted(t.numel() for t in kept if t is not weight_H and t.data_ptr() != weight_H.data_ptr()) == [4, 32]
