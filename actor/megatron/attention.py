"""Attention and norm modules of the decoder: one code path on CPU and GPU, plain torch, packed sequences.

Neighbours: `actor.megatron.model` puts them into the layer spec; `actor.packing` decides which rows form a sequence.
Invariants: linear layers run on packed rows without padding, only the attention call itself sees padded sequences; right
padding under a causal mask never reaches a real row; rotary embedding uses each row's position in its own sequence.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from actor.megatron.device import ensure_importable

ensure_importable()

from megatron.core.packed_seq_params import PackedSeqParams  # noqa: E402
from megatron.core.transformer.module import MegatronModule  # noqa: E402
from megatron.core.transformer.transformer_config import TransformerConfig  # noqa: E402


@dataclass(frozen=True, slots=True)
class PaddedCall:
    """One attention call as tensors. query_rows, key_rows: flattened packed rows [B * Q], [B * K]; shape: (B, Q, K);
    bias_B1QK: 0 where a query sees a key, minus infinity elsewhere; None for plain causal order."""

    query_rows: torch.Tensor
    key_rows: torch.Tensor
    shape: tuple[int, int, int]
    bias_B1QK: torch.Tensor | None


@dataclass
class PackedAttention(PackedSeqParams):
    """What the core attention needs beside queries, keys and values; rides through Megatron as its packed_seq_params.

    cos_N1D, sin_N1D: rotary factors of each row; calls: see `actor.packing`; inverse_N: where each row's output lies in the
    calls' concatenated outputs.
    """

    cos_N1D: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    sin_N1D: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    calls: tuple[PaddedCall, ...] = ()
    inverse_N: torch.Tensor = field(default_factory=lambda: torch.empty(0))


def rotary_factors(positions_N: torch.Tensor, head_dim: int, base: float) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin [N, 1, head_dim] in float32; the second half is laid out for `rotate`."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions_N.device) / head_dim
    angles_ND = positions_N[:, None].float() / base ** exponents[None]
    cos_ND, sin_ND = angles_ND.cos(), angles_ND.sin()
    return torch.cat([cos_ND, cos_ND], -1)[:, None], torch.cat([-sin_ND, sin_ND], -1)[:, None]


def rotate(x_NHD: torch.Tensor, cos_N1D: torch.Tensor, sin_N1D: torch.Tensor) -> torch.Tensor:
    """Rotary embedding (halves, not interleaved); `sin_N1D` carries the sign of the swapped halves."""
    return x_NHD * cos_N1D + x_NHD.roll(x_NHD.shape[-1] // 2, -1) * sin_N1D


class PackedCoreAttention(MegatronModule):
    """Causal attention with grouped queries over packed rows."""

    def __init__(
        self, config: TransformerConfig, layer_number: int, softmax_scale: float | None = None, **_: Any
    ) -> None:
        super().__init__(config)
        self.scale = softmax_scale

    def forward(  # noqa: PLR0917 (Megatron's order)
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        attn_mask_type: Any = None,
        attention_bias: torch.Tensor | None = None,
        packed_seq_params: PackedAttention | None = None,
    ) -> torch.Tensor:
        """query [N, H, D], key and value [N, G, D] → [N, H * D]."""
        if packed_seq_params is None:
            raise ValueError("PackedCoreAttention needs packed_seq_params; run the model through AudioGPT")
        plan = packed_seq_params
        cos, sin = plan.cos_N1D.to(query.dtype), plan.sin_N1D.to(query.dtype)
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        outputs = []
        for call in plan.calls:
            batch, queries, keys = call.shape
            q = query.index_select(0, call.query_rows).unflatten(0, (batch, queries)).transpose(1, 2)
            k, v = (x.index_select(0, call.key_rows).unflatten(0, (batch, keys)).transpose(1, 2) for x in (key, value))
            bias = None if call.bias_B1QK is None else call.bias_B1QK.to(query.dtype)
            out = F.scaled_dot_product_attention(
                q, k, v, attn_mask=bias, is_causal=bias is None, scale=self.scale, enable_gqa=True
            )
            outputs.append(out.transpose(1, 2).reshape(batch * queries, -1))
        packed = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return packed.index_select(0, plan.inverse_N)


class RMSNorm(torch.nn.RMSNorm):
    """RMS norm with the constructor that Megatron's layer spec calls."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
