"""Which kernels a trainer runs on: what is taken by itself, what is refused by name, and where norms' weights then lie."""

from __future__ import annotations

import pytest

from actor.kernels import Facts, KernelsError, kernel_facts, resolve_kernels
from actor.megatron.weights import norm_names

READY = Facts(cuda=True, engine="2.9.0")


@pytest.mark.parametrize(
    ("device", "facts", "name", "why"),
    [
        ("cuda", READY, "transformer_engine", "Transformer Engine 2.9.0 on CUDA"),
        ("cpu", READY, "torch", "auto: the trainer runs on device=cpu"),
        ("cuda", Facts(cuda=False, engine="2.9.0"), "torch", "auto: torch sees no GPU"),
        ("cuda", Facts(cuda=True), "torch", "auto: Transformer Engine is not installed"),
        (
            "cuda",
            Facts(cuda=True, engine="1.13.0"),
            "torch",
            "auto: Transformer Engine 1.13.0 is installed, megatron-core needs",
        ),
        ("cuda", Facts(True, "2.9.0", "OSError: libcudnn.so.9"), "torch", "cannot be imported: OSError: libcudnn.so.9"),
    ],
)
def test_auto_takes_the_engine_where_it_can_run_and_says_why_not(
    device: str, facts: Facts, name: str, why: str
) -> None:
    chosen = resolve_kernels("auto", device, facts)
    assert chosen.name == name
    assert why in chosen.reason
    assert str(chosen).startswith(f"{name} (")


@pytest.mark.parametrize(
    ("device", "facts", "remedy"),
    [
        ("cpu", READY, "set device=cuda"),
        ("cuda", Facts(cuda=False), "mgrd doctor"),
        ("cuda", Facts(cuda=True), 'pip install "transformer-engine'),
        ("cuda", Facts(cuda=True, engine="2.12.0"), "install one of those"),
        ("cuda", Facts(True, "2.9.0", "ImportError: x"), "install the build for this torch and CUDA"),
    ],
)
def test_the_engine_asked_for_by_name_is_refused_where_it_cannot_run(device: str, facts: Facts, remedy: str) -> None:
    with pytest.raises(KernelsError, match="kernels=transformer_engine") as refused:
        resolve_kernels("transformer_engine", device, facts)
    assert remedy in str(refused.value)
    assert "kernels=auto" in str(refused.value)


def test_torch_asked_for_is_torch_on_any_machine() -> None:
    assert not resolve_kernels("torch", "cuda", READY).engine
    assert not resolve_kernels("torch", "cpu", READY).engine


def test_gradients_are_fused_into_their_buffer_only_beside_the_engine_and_apexs_kernel() -> None:
    with_apex = Facts(cuda=True, engine="2.10.0", gradient_fusion=True)
    assert resolve_kernels("auto", "cuda", with_apex).gradient_fusion
    assert not resolve_kernels("auto", "cuda", READY).gradient_fusion
    assert not resolve_kernels("torch", "cuda", with_apex).gradient_fusion


def test_a_machine_is_not_looked_at_for_a_trainer_on_a_cpu() -> None:
    assert kernel_facts("cpu") == Facts(cuda=False)


def test_an_unknown_choice_is_refused() -> None:
    with pytest.raises(KernelsError, match="one of auto, transformer_engine, torch"):
        resolve_kernels("apex", "cuda", READY)


def test_norms_lie_beside_the_linear_layers_or_in_them() -> None:
    assert norm_names(fused=False) == ("input_layernorm.weight", "pre_mlp_layernorm.weight")
    assert norm_names(fused=True) == (
        "self_attention.linear_qkv.layer_norm_weight",
        "mlp.linear_fc1.layer_norm_weight",
    )
