"""Low-rank updates of the decoder's linear layers, over tensor- and sequence-parallel ranks (Hu et al. 2021, "LoRA").

Neighbours: `actor.megatron.model` puts these layers into the layer spec; `actor.megatron.weights` adds the updates to the weights
it hands out, so that engines and exported folders know nothing of them.
Invariants: y = W x + (alpha / rank) B A x with B zero at the start; A is drawn by layer and name, the same whole matrix in every
layout; only A and B are trained (and the value head of a critic, and what else is not the decoder's).
"""

from __future__ import annotations

import functools
import zlib
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from actor.megatron.device import ensure_importable

ensure_importable()

from megatron.core import parallel_state  # noqa: E402
from megatron.core.tensor_parallel.layers import (  # noqa: E402
    set_tensor_model_parallel_attributes,
)
from megatron.core.tensor_parallel.mappings import (  # noqa: E402
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)
from megatron.core.transformer.mlp import apply_swiglu_sharded_factory  # noqa: E402
from megatron.core.transformer.spec_utils import ModuleSpec  # noqa: E402
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint  # noqa: E402

A, B = "lora_a", "lora_b"


@dataclass(frozen=True, slots=True)
class Lora:
    """rank: of every update; alpha: an update counts alpha / rank."""

    rank: int
    alpha: float

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


class LoraLayer(torch.nn.Module):
    """A linear layer of Megatron's or of Transformer Engine with the two matrices of an update, beside this rank's part of its weight
    [outputs, inputs]."""

    weight: torch.nn.Parameter
    config: Any

    def __init__(self, *arguments: Any, lora: Lora, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.lora = lora
        outputs, inputs = self.weight.shape
        self.lora_a = torch.nn.Parameter(self.weight.new_zeros(lora.rank, inputs))
        self.lora_b = torch.nn.Parameter(self.weight.new_zeros(outputs, lora.rank))


class _Columns(LoraLayer):
    """Outputs are split: A whole on every rank, B split by rows as the weight is. gated: gate and up projection are stacked in it."""

    def __init__(self, *arguments: Any, gated: bool = False, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._gated = gated
        self.lora_a.sequence_parallel = self.config.sequence_parallel  # type: ignore[attr-defined]
        set_tensor_model_parallel_attributes(self.lora_b, True, 0, 1)

    def forward(self, input_: torch.Tensor, *arguments: Any, **named: Any) -> tuple[torch.Tensor, Any]:
        output, bias = super().forward(input_, *arguments, **named)
        low = F.linear(input_, self.lora_a)
        # Each rank sees the gradient of its own outputs: summed on the way back, over rows of its own under sequence parallel.
        if self.config.sequence_parallel:
            low = gather_from_sequence_parallel_region(low, tensor_parallel_output_grad=True)
        else:
            low = copy_to_tensor_model_parallel_region(low)
        return output + self.lora.scale * F.linear(low, self.lora_b), bias

    def sharded_state_dict(self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None) -> dict[str, Any]:
        """As Megatron's, B split as the weight."""
        axes = {"weight": 0, "bias": 0, B: 0}
        state = _sharded(self, prefix, axes, sharded_offsets, metadata)
        if self._gated:
            single = (metadata or {}).get("singleton_local_shards", False)
            state[prefix + B] = apply_swiglu_sharded_factory(state[prefix + B], sharded_offsets, single)
        return state


class _Rows(LoraLayer):
    """Inputs are split: A split by columns as the weight is, B whole on every rank."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.lora_b.sequence_parallel = self.config.sequence_parallel  # type: ignore[attr-defined]
        set_tensor_model_parallel_attributes(self.lora_a, True, 1, 1)

    def forward(self, input_: torch.Tensor) -> tuple[torch.Tensor, Any]:
        output, bias = super().forward(input_)
        low = F.linear(input_, self.lora_a)
        if self.config.sequence_parallel:
            low = reduce_scatter_to_sequence_parallel_region(low)
        else:
            low = reduce_from_tensor_model_parallel_region(low)
        return output + self.lora.scale * F.linear(low, self.lora_b), bias

    def sharded_state_dict(self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None) -> dict[str, Any]:
        """As Megatron's, A split as the weight."""
        return _sharded(self, prefix, {"weight": 1, A: 1}, sharded_offsets, metadata)


@functools.cache
def _over(kind: type[LoraLayer], base: type) -> type:
    return type(f"Lora{base.__name__}", (kind, base), {})


def is_update(name: str) -> bool:
    """Whether a parameter of this name is half of an update."""
    return name.endswith((A, B))


def settings_of(model: torch.nn.Module) -> Lora | None:
    """Rank and scale of the updates in `model`; None without any."""
    return next((module.lora for module in model.modules() if isinstance(module, LoraLayer)), None)


def put_into(layer: ModuleSpec, lora: Lora, columns: type, rows: type) -> None:
    """Low-rank layers in place of the four linear layers of a decoder layer's spec. columns, rows: the linear layers they extend."""
    attention, mlp = layer.submodules.self_attention.submodules, layer.submodules.mlp.submodules
    split_outputs, split_inputs = _over(_Columns, columns), _over(_Rows, rows)
    attention.linear_qkv = ModuleSpec(split_outputs, params={"lora": lora})
    attention.linear_proj = ModuleSpec(split_inputs, params={"lora": lora})
    mlp.linear_fc1 = ModuleSpec(split_outputs, params={"lora": lora, "gated": True})
    mlp.linear_fc2 = ModuleSpec(split_inputs, params={"lora": lora})


@torch.no_grad()
def draw(decoder: torch.nn.Module, first_layer: int, seed: int) -> None:
    """A of every layer, uniform in +-1/sqrt(inputs) (the field's Kaiming draw). first_layer: number of this stage's first."""
    ranks = parallel_state.get_tensor_model_parallel_world_size()
    rank = parallel_state.get_tensor_model_parallel_rank()
    for name, module in decoder.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        _, number, rest = name.split(".", 2)  # layers.<number>.<rest>
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{int(number) + first_layer}/{rest}".encode()))
        split = isinstance(module, _Rows)
        inputs = module.weight.shape[1] * (ranks if split else 1)
        bound = inputs**-0.5
        whole = torch.empty(module.lora.rank, inputs).uniform_(-bound, bound, generator=generator)
        module.lora_a.copy_(whole.chunk(ranks, 1)[rank] if split else whole)


@torch.no_grad()
def merged(module: torch.nn.Module) -> torch.Tensor:
    """This rank's part of the weight with the update added; a plain layer's weight as it is."""
    if not isinstance(module, LoraLayer):
        weight: torch.Tensor = module.get_parameter("weight")
        return weight.detach()
    return module.weight + module.lora.scale * (module.lora_b @ module.lora_a)


def _sharded(
    module: LoraLayer, prefix: str, axes: dict[str, int], sharded_offsets: Any, metadata: Any
) -> dict[str, Any]:
    return make_sharded_tensors_for_checkpoint(
        module.state_dict(prefix="", keep_vars=True),
        prefix,
        axes,
        sharded_offsets,
        tp_group=parallel_state.get_tensor_model_parallel_group(),
        dp_cp_group=metadata["dp_cp_group"],
    )
