"""What a decoder layer is made of: modules in plain torch or of Transformer Engine, put into one and the same layer spec.

Neighbours: `actor.megatron.model` builds the decoder from the spec; `actor.megatron.engine` names Transformer Engine's modules, and is
imported only where these are used; `actor.megatron.weights` knows where the norms' weights lie.
Invariants: layers of either kind compute the same function of the same checkpoint tensors, and write checkpoints with the same names.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from actor.kernels import Kernels
from actor.megatron import lora, swiglu
from actor.megatron.attention import PackedCoreAttention
from actor.megatron.device import ensure_importable
from actor.megatron.last_layer import LastLayer
from actor.megatron.norm import RMSNorm

ensure_importable()

from megatron.core import parallel_state  # noqa: E402
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec  # noqa: E402
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear  # noqa: E402
from megatron.core.transformer.identity_op import IdentityOp  # noqa: E402
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build  # noqa: E402
from megatron.core.transformer.transformer_config import TransformerConfig  # noqa: E402


@dataclass(frozen=True, slots=True)
class LayerParts:
    """columns, rows: linear layers whose outputs, whose inputs are split over tensor-parallel ranks; norm: RMS norm; attention: core
    attention over packed rows; normed_columns: a norm and the linear layer behind it as one module, None where there is none."""

    columns: type
    rows: type
    norm: type
    attention: type
    normed_columns: type | None = None

    def fused_norms(self, low_rank: lora.Lora | None) -> bool:
        """Whether a layer's norms lie inside its linear layers; low-rank updates need the rows between the two."""
        return self.normed_columns is not None and low_rank is None


TORCH_PARTS = LayerParts(ColumnParallelLinear, RowParallelLinear, RMSNorm, PackedCoreAttention)


def layer_parts(kernels: Kernels) -> LayerParts:
    if not kernels.engine:
        return TORCH_PARTS
    from actor.megatron.engine import ENGINE_PARTS

    return ENGINE_PARTS


def block_spec(config: TransformerConfig, parts: LayerParts, low_rank: lora.Lora | None) -> TransformerBlockSubmodules:
    """The decoder layers of this pipeline stage, and the final norm."""
    layer = get_gpt_layer_local_spec(normalization="RMSNorm")
    fused = parts.fused_norms(low_rank)
    attention, mlp = layer.submodules.self_attention.submodules, layer.submodules.mlp.submodules
    attention.core_attention = parts.attention
    attention.linear_qkv = mlp.linear_fc1 = parts.normed_columns if fused else parts.columns
    attention.linear_proj = mlp.linear_fc2 = parts.rows
    mlp.activation_func = swiglu.Activation  # where Megatron's own fused one is not switched on
    if low_rank is not None:
        lora.put_into(layer, low_rank, parts.columns, parts.rows)
    layer.submodules.input_layernorm = layer.submodules.pre_mlp_layernorm = IdentityOp if fused else parts.norm
    layers = [layer] * get_num_layers_to_build(config)
    if parallel_state.is_pipeline_last_stage() and not config.sequence_parallel:
        layers[-1] = replace(layer, module=LastLayer)
    return TransformerBlockSubmodules(layer_specs=layers, layer_norm=parts.norm)
