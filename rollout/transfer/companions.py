"""Which tensors an engine must load together (pure).

Neighbours: `reception` asks before it skips what it holds already. vLLM fuses some matrices of a checkpoint into one parameter, and a
layer that gets only a part of its tensors keeps undefined memory in the rest, without a word.
Invariant: a closure: asking again for the answer adds nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

FUSED = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
}


def layer_of(name: str) -> str:
    """The engine's layer that a checkpoint tensor ends in."""
    module, _, _ = name.rpartition(".")
    parent, _, own = module.rpartition(".")
    return f"{parent}.{FUSED[own]}" if own in FUSED else module


def with_companions(changed: Iterable[str], names: Collection[str]) -> set[str]:
    """`changed`, and whatever of `names` shares a layer with it."""
    layers = {layer_of(name) for name in changed}
    return {name for name in names if layer_of(name) in layers}
