"""The rewriting of Megatron's device literals, and the weights payload."""

from __future__ import annotations

import importlib.metadata

import pytest
import torch

from actor.megatron import device
from actor.megatron.device import DeviceError, ensure_importable, rewrite
from actor.publishing import payload_tensors, whole_update


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('torch.zeros([], dtype=torch.int, device="cuda")', "torch.zeros([], dtype=torch.int, device='cpu')"),
        ("x.to(torch.cuda.current_device())", "x.to('cpu')"),
        ("p.type() == 'torch.cuda.FloatTensor'", "p.type() == 'torch.FloatTensor'"),
        ("torch.tensor([1], pin_memory=True).cuda(non_blocking=True)", "torch.tensor([1], pin_memory=False).cpu()"),
        ("torch.cuda.get_rng_state()", "torch.get_rng_state()"),
        ("device = self.device", "device = self.device"),
    ],
)
def test_device_literals_move_to_the_cpu(before: str, after: str) -> None:
    assert rewrite("megatron.core.somewhere", before) == after


def test_rules_for_one_module_leave_the_others_alone() -> None:
    assert rewrite("megatron.core.jit", "enable_jit_fuser()") == "disable_jit_fuser()"
    assert rewrite("megatron.core.other", "enable_jit_fuser()") == "enable_jit_fuser()"


def test_another_megatron_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.17.0")
    with pytest.raises(DeviceError, match=f"needs {device.SUPPORTED_VERSION} exactly"):
        ensure_importable()


def test_payload_leaves_the_encoder_out_and_carries_equal_bits() -> None:
    tensors = {
        "model.norm.weight": torch.randn(4),
        "encoder.conv1.weight": torch.randn(2),
        "adapter.conv.bias": torch.randn(3),
    }
    update = whole_update(7, tensors.items())
    received = payload_tensors(update)
    assert update.version == 7
    assert sorted(received) == ["adapter.conv.bias", "model.norm.weight"]
    assert all(torch.equal(received[name], tensors[name]) for name in received)


def test_payload_checksum_follows_the_tensors_not_their_order() -> None:
    a, b = torch.randn(4), torch.randn(3)
    one, two = whole_update(1, {"a": a, "b": b}.items()), whole_update(2, {"b": b, "a": a}.items())
    assert one.checksum == two.checksum
    assert whole_update(1, {"a": a + 1, "b": b}.items()).checksum != one.checksum
