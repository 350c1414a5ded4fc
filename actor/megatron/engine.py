"""Transformer Engine's modules as parts of a decoder layer; imported only where they were chosen (`actor.kernels`).

Neighbours: `actor.megatron.parts` puts them into the layer spec. Invariants: nothing here runs without CUDA; attention calls that need
a mask (shared prompts, a split context) take the same path as without Transformer Engine.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from actor.megatron.attention import PackedCoreAttention
from actor.megatron.device import ensure_importable
from actor.megatron.parts import LayerParts

ensure_importable()

from megatron.core.extensions.transformer_engine import (  # noqa: E402
    TEColumnParallelLinear,
    TEDotProductAttention,
    TELayerNormColumnParallelLinear,
    TENorm,
    TERowParallelLinear,
)
from megatron.core.transformer.enums import AttnMaskType  # noqa: E402
from megatron.core.transformer.transformer_config import TransformerConfig  # noqa: E402


class EngineCoreAttention(PackedCoreAttention):
    """Plain causal calls on Transformer Engine's flash or cuDNN attention, all others as in `PackedCoreAttention`."""

    def __init__(
        self, config: TransformerConfig, layer_number: int, softmax_scale: float | None = None, **named: Any
    ) -> None:
        super().__init__(config, layer_number, softmax_scale, **named)
        # The context is split and gathered by our own calls; told of it, this module would set up a ring of its own.
        alone = dataclasses.replace(config, context_parallel_size=1)
        self.causal = TEDotProductAttention(
            alone, layer_number, AttnMaskType.causal, "self", softmax_scale=softmax_scale
        )

    def attend(
        self, q_BHQD: torch.Tensor, k_BGKD: torch.Tensor, v_BGKD: torch.Tensor, bias_B1QK: torch.Tensor | None
    ) -> torch.Tensor:
        if bias_B1QK is not None:
            return super().attend(q_BHQD, k_BGKD, v_BGKD, bias_B1QK)
        q, k, v = (x.permute(2, 0, 1, 3).contiguous() for x in (q_BHQD, k_BGKD, v_BGKD))
        return self.causal(q, k, v, None, AttnMaskType.causal).transpose(0, 1)


ENGINE_PARTS = LayerParts(
    columns=TEColumnParallelLinear,
    rows=TERowParallelLinear,
    norm=TENorm,
    attention=EngineCoreAttention,
    normed_columns=TELayerNormColumnParallelLinear,
)
