"""Parameters by checkpoint name: Hugging Face tensors into Megatron's fused, split layout and back, exactly.

Neighbours: `actor.trainer` loads, exports and freezes with this; names are those of `rollout.model`.
Invariants: fuse and split only move numbers, so a round trip returns equal bits in every layout; every parameter of the
model is mapped, and a missing or misshapen tensor is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
import torch.distributed as dist

from actor.megatron.device import ensure_importable
from actor.megatron.model import AudioGPT

ensure_importable()

from megatron.core import parallel_state  # noqa: E402
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes  # noqa: E402

ENCODER_PREFIX = "encoder."
ADAPTER_PREFIX = "adapter."
DECODER_PREFIX = "language_model."
HEAD = "language_model.output_layer.weight"  # of a critic: the value head


class WeightsError(ValueError):
    """Checkpoint and model do not fit; the message names the tensor."""


class Layout(StrEnum):
    """How a Megatron parameter holds its checkpoint tensors."""

    SAME = "same"  # one tensor, whole on every rank
    ROWS = "rows"  # one tensor, rows split over ranks
    VOCAB = "vocab"  # as rows, padded at the end
    COLUMNS = "columns"  # one tensor, columns split over ranks
    GATE_UP = "gate_up"  # gate and up projection: each split by rows, then stacked
    QKV = "qkv"  # query, key, value interleaved by key-value head, then split by rows


@dataclass(frozen=True, slots=True)
class ParameterMapping:
    """One Megatron parameter and the checkpoint tensors it is made of."""

    parameter: str
    tensors: tuple[str, ...]
    layout: Layout


def mappings(model: AudioGPT) -> Iterator[ParameterMapping]:
    """Every parameter of `model` except the value head, which no public checkpoint has."""
    for name, _ in model.named_parameters():
        if name.startswith(ADAPTER_PREFIX):
            yield ParameterMapping(name, (name,), Layout.SAME)
    yield ParameterMapping(
        f"{DECODER_PREFIX}embedding.word_embeddings.weight", ("model.embed_tokens.weight",), Layout.VOCAB
    )
    for layer in range(model.config.num_layers):
        ours, theirs = f"{DECODER_PREFIX}decoder.layers.{layer}.", f"model.layers.{layer}."
        qkv = tuple(f"{theirs}self_attn.{x}_proj." for x in "qkv")
        yield ParameterMapping(f"{ours}input_layernorm.weight", (f"{theirs}input_layernorm.weight",), Layout.SAME)
        for kind in ("weight", "bias"):
            yield ParameterMapping(
                f"{ours}self_attention.linear_qkv.{kind}", tuple(name + kind for name in qkv), Layout.QKV
            )
        yield ParameterMapping(
            f"{ours}self_attention.linear_proj.weight", (f"{theirs}self_attn.o_proj.weight",), Layout.COLUMNS
        )
        yield ParameterMapping(
            f"{ours}pre_mlp_layernorm.weight", (f"{theirs}post_attention_layernorm.weight",), Layout.SAME
        )
        gate_up = (f"{theirs}mlp.gate_proj.weight", f"{theirs}mlp.up_proj.weight")
        yield ParameterMapping(f"{ours}mlp.linear_fc1.weight", gate_up, Layout.GATE_UP)
        yield ParameterMapping(f"{ours}mlp.linear_fc2.weight", (f"{theirs}mlp.down_proj.weight",), Layout.COLUMNS)
    yield ParameterMapping(f"{DECODER_PREFIX}decoder.final_layernorm.weight", ("model.norm.weight",), Layout.SAME)
    if not model.share_embeddings_and_output_weights and not model.critic:
        yield ParameterMapping(HEAD, ("lm_head.weight",), Layout.VOCAB)


def _fuse(tensors: Sequence[torch.Tensor], layout: Layout, groups: int, ranks: int, rank: int) -> torch.Tensor:
    """This rank's part of a parameter."""
    first = tensors[0]
    match layout:
        case Layout.SAME:
            return first
        case Layout.ROWS | Layout.VOCAB:
            return first.chunk(ranks, 0)[rank]
        case Layout.COLUMNS:
            return first.chunk(ranks, 1)[rank]
        case Layout.GATE_UP:
            return torch.cat([tensor.chunk(ranks, 0)[rank] for tensor in tensors])
        case Layout.QKV:
            by_head = torch.cat([tensor.unflatten(0, (groups, -1)) for tensor in tensors], 1)
            return by_head.chunk(ranks, 0)[rank].flatten(0, 1)


def _split(shards: Sequence[torch.Tensor], layout: Layout, groups: int, head_dim: int) -> list[torch.Tensor]:
    """Checkpoint tensors from the parts of all ranks; the inverse of `_fuse`."""
    match layout:
        case Layout.SAME:
            return [shards[0]]
        case Layout.ROWS | Layout.VOCAB:
            return [torch.cat(list(shards))]
        case Layout.COLUMNS:
            return [torch.cat(list(shards), 1)]
        case Layout.GATE_UP:
            return [torch.cat(parts) for parts in zip(*(shard.chunk(2) for shard in shards), strict=True)]
        case Layout.QKV:
            by_head = torch.cat(list(shards)).unflatten(0, (groups, -1))
            query = by_head.shape[1] - 2 * head_dim
            return [part.flatten(0, 1).contiguous() for part in by_head.split([query, head_dim, head_dim], 1)]


@torch.no_grad()
def load_tensors(model: AudioGPT, tensors: Mapping[str, torch.Tensor]) -> None:
    """Copy checkpoint tensors into `model`. Raises WeightsError for a missing tensor or another shape."""
    ranks = parallel_state.get_tensor_model_parallel_world_size()
    rank = parallel_state.get_tensor_model_parallel_rank()
    parameters = dict(model.named_parameters())
    if model.critic:
        del parameters[HEAD]
    for mapping in mappings(model):
        missing = [name for name in mapping.tensors if name not in tensors]
        if missing:
            raise WeightsError(f"the checkpoint has no {', '.join(missing)}; give a complete Step-Audio 2 folder")
        sources = [tensors[name] for name in mapping.tensors]
        parameter = parameters.pop(mapping.parameter)
        if mapping.layout is Layout.VOCAB:
            sources = [_pad_rows(sources[0], parameter.shape[0] * ranks)]
        part = _fuse(sources, mapping.layout, model.config.num_query_groups, ranks, rank)
        if part.shape != parameter.shape:
            shapes = ", ".join(f"{name} {tuple(tensors[name].shape)}" for name in mapping.tensors)
            raise WeightsError(f"{shapes} does not fit {mapping.parameter} {tuple(parameter.shape)}; check config.json")
        parameter.copy_(part)
    if parameters:
        raise WeightsError(f"no checkpoint name is known for {', '.join(sorted(parameters))}")


@torch.no_grad()
def export_tensors(model: AudioGPT) -> dict[str, torch.Tensor]:
    """Whole tensors by checkpoint name on the CPU, on every rank (collective over tensor-parallel ranks)."""
    group = parallel_state.get_tensor_model_parallel_group()
    parameters = dict(model.named_parameters())
    exported: dict[str, torch.Tensor] = {}
    for mapping in mappings(model):
        part = parameters[mapping.parameter].detach().contiguous()
        shards = [part]
        if group.size() > 1 and mapping.layout is not Layout.SAME:
            shards = [torch.empty_like(part) for _ in range(group.size())]
            dist.all_gather(shards, part, group=group)
        whole = _split(shards, mapping.layout, model.config.num_query_groups, model.config.kv_channels)
        if mapping.layout is Layout.VOCAB:
            whole = [whole[0][: model.vocab_size]]
        for name, tensor in zip(mapping.tensors, whole, strict=True):
            exported[name] = tensor.to("cpu", copy=True).contiguous()
    return exported


def freeze(model: AudioGPT, prefixes: Sequence[str]) -> None:
    """Stop training of every parameter whose checkpoint names start with one of `prefixes`; before DDP wraps the model.

    Raises WeightsError when a prefix covers only a part of a fused parameter.
    """
    parameters = dict(model.named_parameters())
    for mapping in mappings(model):
        covered = [name for name in mapping.tensors if name.startswith(tuple(prefixes))]
        if covered and len(covered) < len(mapping.tensors):
            raise WeightsError(
                f"freeze covers {', '.join(covered)} but not {', '.join(set(mapping.tensors) - set(covered))}, which are "
                "one fused parameter; freeze all of them or none"
            )
        if covered:
            parameters[mapping.parameter].requires_grad_(False)


def mark_split(model: AudioGPT) -> None:
    """Tell Megatron which parameters are split over tensor-parallel ranks: the gradient norm counts those on every rank and
    the others once. Megatron marks biases itself, but matrices only while it draws initial weights, which we skip."""
    parameters = dict(model.named_parameters())
    for mapping in mappings(model):
        parameter = parameters[mapping.parameter]
        if mapping.layout is not Layout.SAME and not hasattr(parameter, "tensor_model_parallel"):
            dimension = 1 if mapping.layout is Layout.COLUMNS else 0
            set_tensor_model_parallel_attributes(parameter, True, dimension, 1)


def adapter_is_frozen(prefixes: Sequence[str]) -> bool:
    """Whether `prefixes` cover the whole adaptor."""
    return any(ADAPTER_PREFIX.startswith(prefix) for prefix in prefixes)


def _pad_rows(tensor: torch.Tensor, rows: int) -> torch.Tensor:
    if rows < tensor.shape[0]:
        raise WeightsError(f"the checkpoint's vocabulary has {tensor.shape[0]} rows, config.json says fewer")
    return torch.cat([tensor, tensor.new_zeros(rows - tensor.shape[0], tensor.shape[1])])
