"""Core attention of the decoder: one code path on CPU and GPU, plain torch, packed sequences.

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

from megatron.core import parallel_state  # noqa: E402
from megatron.core.packed_seq_params import PackedSeqParams  # noqa: E402
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region  # noqa: E402
from megatron.core.transformer.module import MegatronModule  # noqa: E402
from megatron.core.transformer.transformer_config import TransformerConfig  # noqa: E402


@dataclass(frozen=True, slots=True)
class PaddedCall:
    """One attention call as tensors. query_rows: flattened own rows [B * Q]; key_rows: flattened rows of all context-parallel ranks
    [B * K]; a slice where they follow each other, so that nothing is copied; shape: (B, Q, K); bias_B1QK: 0 where a query sees a
    key, minus infinity elsewhere; None for plain causal order."""

    query_rows: torch.Tensor | slice
    key_rows: torch.Tensor | slice
    shape: tuple[int, int, int]
    bias_B1QK: torch.Tensor | None


@dataclass
class PackedAttention(PackedSeqParams):
    """What the core attention needs beside queries, keys and values; rides through Megatron as its packed_seq_params.

    cos_N1D, sin_N1D: rotary factors of each of the rank's N rows; calls: see `actor.packing`; inverse_N: where each row's output
    lies in the calls' concatenated outputs, a slice as in `PaddedCall`; head_rows_K: rows that predict response tokens.
    """

    cos_N1D: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    sin_N1D: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    calls: tuple[PaddedCall, ...] = ()
    inverse_N: torch.Tensor | slice = field(default_factory=lambda: torch.empty(0))
    head_rows_K: torch.Tensor = field(default_factory=lambda: torch.empty(0))


def rotary_factors(positions_N: torch.Tensor, head_dim: int, base: float) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin [N, 1, head_dim] in float32; the second half is laid out for `rotate`."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions_N.device) / head_dim
    angles_ND = positions_N[:, None].float() / base ** exponents[None]
    cos_ND, sin_ND = angles_ND.cos(), angles_ND.sin()
    return torch.cat([cos_ND, cos_ND], -1)[:, None], torch.cat([-sin_ND, sin_ND], -1)[:, None]


def rotate(x_NHD: torch.Tensor, cos_N1D: torch.Tensor, sin_N1D: torch.Tensor) -> torch.Tensor:
    """Rotary embedding (halves, not interleaved); `sin_N1D` carries the sign of the swapped halves."""
    return _Rotate.apply(x_NHD, cos_N1D, sin_N1D)


class _Rotate(torch.autograd.Function):
    """Composed from torch ops it would make three copies of x more."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        first, second = (slice(0, x.shape[-1] // 2), slice(x.shape[-1] // 2, None))
        out = x * cos
        out[..., first].addcmul_(x[..., second], sin[..., first])
        out[..., second].addcmul_(x[..., first], sin[..., second])
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        (grad,) = gradients
        first, second = (slice(0, grad.shape[-1] // 2), slice(grad.shape[-1] // 2, None))
        out = grad * cos
        out[..., second].addcmul_(grad[..., first], sin[..., first])
        out[..., first].addcmul_(grad[..., second], sin[..., second])
        return out, None, None


class PackedCoreAttention(MegatronModule):
    """Causal attention with grouped queries over packed rows."""

    def __init__(
        self, config: TransformerConfig, layer_number: int, softmax_scale: float | None = None, **_: Any
    ) -> None:
        super().__init__(config)
        self.scale = softmax_scale
        self.context_group = parallel_state.get_context_parallel_group() if config.context_parallel_size > 1 else None

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
        """query [N, H, D], key and value [N, G, D] of this rank's rows → [N, H * D]. Keys and values of the other
        context-parallel ranks are gathered; their gradients go back summed."""
        if packed_seq_params is None:
            raise ValueError("PackedCoreAttention needs packed_seq_params; run the model through AudioGPT")
        plan = packed_seq_params
        cos, sin = plan.cos_N1D.to(query.dtype), plan.sin_N1D.to(query.dtype)
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        if self.context_group is not None:
            key, value = (gather_from_sequence_parallel_region(x, group=self.context_group) for x in (key, value))
        outputs = []
        for call in plan.calls:
            batch, queries, keys = call.shape
            q = _pick(query, call.query_rows).unflatten(0, (batch, queries)).transpose(1, 2)
            k, v = (_pick(x, call.key_rows).unflatten(0, (batch, keys)).transpose(1, 2) for x in (key, value))
            bias = None if call.bias_B1QK is None else call.bias_B1QK.to(query.dtype)
            outputs.append(self.attend(q, k, v, bias).reshape(batch * queries, -1))
        packed = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return _pick(packed, plan.inverse_N)

    def attend(
        self, q_BHQD: torch.Tensor, k_BGKD: torch.Tensor, v_BGKD: torch.Tensor, bias_B1QK: torch.Tensor | None
    ) -> torch.Tensor:
        """One call, without bias in plain causal order → [B, Q, H, D], or the two last in one."""
        if bias_B1QK is not None and q_BHQD.is_cuda:
            # Kernels that take a bias on a GPU want as many key heads as query heads; else all scores would be written out.
            share = q_BHQD.shape[1] // k_BGKD.shape[1]
            k_BGKD, v_BGKD = (x.repeat_interleave(share, 1) for x in (k_BGKD, v_BGKD))
        out = F.scaled_dot_product_attention(
            q_BHQD,
            k_BGKD,
            v_BGKD,
            attn_mask=bias_B1QK,
            is_causal=bias_B1QK is None,
            scale=self.scale,
            enable_gqa=q_BHQD.shape[1] != k_BGKD.shape[1],
        )
        return out.transpose(1, 2)


def _pick(x_N: torch.Tensor, rows: torch.Tensor | slice) -> torch.Tensor:
    """Never a view into a wider tensor, which would live as long as the backward pass needs this part of it."""
    return x_N[rows].contiguous() if isinstance(rows, slice) else x_N.index_select(0, rows)
