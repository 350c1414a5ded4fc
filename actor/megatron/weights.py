"""Parameters by checkpoint name: Hugging Face tensors into Megatron's fused, split layout and back, exactly.

Neighbours: `actor.trainer` loads, exports and freezes with this; names are those of `rollout.model`.
Invariants: fuse and split only move numbers, so a round trip returns equal bits in every layout; every parameter of the
model is mapped, and a missing or misshapen tensor is named; tensors are loaded and exported one parameter at a time, so no
process holds a whole model beside its own part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
import torch.distributed as dist

from actor.megatron import lora
from actor.megatron.device import ensure_importable
from actor.megatron.model import AudioGPT
from rollout import TensorSpec
from rollout.model.adaptor import Adaptor

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
    """One Megatron parameter and the checkpoint tensors it is made of. parameter: its name on pipeline stage `stage`; copy: of a
    parameter that an earlier stage holds, too (the head of tied weights)."""

    parameter: str
    tensors: tuple[str, ...]
    layout: Layout
    stage: int = 0
    copy: bool = False


def mappings(model: AudioGPT) -> Iterator[ParameterMapping]:
    """Every parameter of the whole model, in an order that all ranks share, except the value head, which no public checkpoint
    has."""
    stages = model.config.pipeline_model_parallel_size
    for name in _adaptor_shapes(model):
        yield ParameterMapping(f"{ADAPTER_PREFIX}{name}", (f"{ADAPTER_PREFIX}{name}",), Layout.SAME)
    embedding = "model.embed_tokens.weight"
    yield ParameterMapping(f"{DECODER_PREFIX}embedding.word_embeddings.weight", (embedding,), Layout.VOCAB)
    layers = model.config.num_layers // stages
    for layer in range(model.config.num_layers):
        stage = layer // layers
        ours, theirs = f"{DECODER_PREFIX}decoder.layers.{layer % layers}.", f"model.layers.{layer}."
        qkv = tuple(f"{theirs}self_attn.{x}_proj." for x in "qkv")
        before_attention, before_mlp = (ours + name for name in norm_names(model.fused_norms))
        yield ParameterMapping(before_attention, (f"{theirs}input_layernorm.weight",), Layout.SAME, stage)
        for kind in ("weight", "bias"):
            yield ParameterMapping(
                f"{ours}self_attention.linear_qkv.{kind}", tuple(name + kind for name in qkv), Layout.QKV, stage
            )
        yield ParameterMapping(
            f"{ours}self_attention.linear_proj.weight", (f"{theirs}self_attn.o_proj.weight",), Layout.COLUMNS, stage
        )
        yield ParameterMapping(before_mlp, (f"{theirs}post_attention_layernorm.weight",), Layout.SAME, stage)
        gate_up = (f"{theirs}mlp.gate_proj.weight", f"{theirs}mlp.up_proj.weight")
        yield ParameterMapping(f"{ours}mlp.linear_fc1.weight", gate_up, Layout.GATE_UP, stage)
        yield ParameterMapping(
            f"{ours}mlp.linear_fc2.weight", (f"{theirs}mlp.down_proj.weight",), Layout.COLUMNS, stage
        )
    last = stages - 1
    yield ParameterMapping(f"{DECODER_PREFIX}decoder.final_layernorm.weight", ("model.norm.weight",), Layout.SAME, last)
    if model.critic:
        return
    if not model.share_embeddings_and_output_weights:
        yield ParameterMapping(HEAD, ("lm_head.weight",), Layout.VOCAB, last)
    elif stages > 1:
        yield ParameterMapping(HEAD, (embedding,), Layout.VOCAB, last, copy=True)


def norm_names(fused: bool) -> tuple[str, str]:
    """Of a layer's norms before attention and before the MLP. fused: they lie in the linear layers behind them, as in Transformer
    Engine's."""
    if fused:
        return "self_attention.linear_qkv.layer_norm_weight", "mlp.linear_fc1.layer_norm_weight"
    return "input_layernorm.weight", "pre_mlp_layernorm.weight"


def here(model: AudioGPT) -> Iterator[ParameterMapping]:
    """Those of `mappings` that this rank's stage holds; the adaptor only where the model has one."""
    stage = parallel_state.get_pipeline_model_parallel_rank()
    for mapping in mappings(model):
        absent = model.adapter is None and mapping.parameter.startswith(ADAPTER_PREFIX)
        if mapping.stage == stage and not absent:
            yield mapping


def whole_shapes(model: AudioGPT) -> dict[str, tuple[int, ...]]:
    """Shape of every checkpoint tensor that `mappings` names, also of those that other ranks hold."""
    config = model.config
    hidden, heads, groups = config.hidden_size, config.num_attention_heads, config.num_query_groups
    query, key, ffn = heads * config.kv_channels, groups * config.kv_channels, config.ffn_hidden_size
    shapes = {f"{ADAPTER_PREFIX}{name}": shape for name, shape in _adaptor_shapes(model).items()}
    shapes |= dict.fromkeys(("model.embed_tokens.weight", "lm_head.weight"), (model.vocab_size, hidden))
    shapes["model.norm.weight"] = (hidden,)
    for layer in range(config.num_layers):
        of_layer: dict[str, tuple[int, ...]] = {
            "input_layernorm.weight": (hidden,),
            "post_attention_layernorm.weight": (hidden,),
            "self_attn.q_proj.weight": (query, hidden),
            "self_attn.k_proj.weight": (key, hidden),
            "self_attn.v_proj.weight": (key, hidden),
            "self_attn.q_proj.bias": (query,),
            "self_attn.k_proj.bias": (key,),
            "self_attn.v_proj.bias": (key,),
            "self_attn.o_proj.weight": (hidden, query),
            "mlp.gate_proj.weight": (ffn, hidden),
            "mlp.up_proj.weight": (ffn, hidden),
            "mlp.down_proj.weight": (hidden, ffn),
        }
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in of_layer.items()}
    return shapes


def _adaptor_shapes(model: AudioGPT) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(p.shape) for name, p in Adaptor(model.audio_config).named_parameters()}


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


def split(shards: Sequence[torch.Tensor], layout: Layout, groups: int, head_dim: int) -> list[torch.Tensor]:
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


def load_tensors(model: AudioGPT, tensors: Mapping[str, torch.Tensor]) -> None:
    """Copy checkpoint tensors into this rank's part of `model`; a mapping that reads when asked is asked for those of this stage
    alone, one parameter at a time. Raises WeightsError for a missing tensor or another shape."""
    wanted = list(dict.fromkeys(name for mapping in here(model) for name in mapping.tensors))
    if missing := [name for name in wanted if name not in tensors]:
        raise WeightsError(f"the checkpoint has no {', '.join(missing)}; give a complete Step-Audio 2 folder")
    load_stream(model, ((name, tensors[name]) for name in wanted))


@torch.no_grad()
def load_stream(model: AudioGPT, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """As `load_tensors`, from tensors that come in any order; what no parameter of this rank takes is dropped at once. Raises
    WeightsError for a parameter that nothing came for, and for another shape."""
    parameters = _loadable(model)
    waiting: dict[str, list[ParameterMapping]] = {}
    for mapping in here(model):
        for name in mapping.tensors:
            waiting.setdefault(name, []).append(mapping)
    held: dict[str, torch.Tensor] = {}
    for name, tensor in tensors:
        for mapping in waiting.get(name, []):
            held[name] = tensor
            if all(part in held for part in mapping.tensors):
                _load(model, mapping, parameters.pop(mapping.parameter), [held[part] for part in mapping.tensors])
                held = {part: kept for part, kept in held.items() if part not in mapping.tensors}
    if parameters:
        raise WeightsError(
            f"nothing came for {', '.join(sorted(parameters))}; no checkpoint name may be known for them"
        )


def _loadable(model: AudioGPT) -> dict[str, torch.nn.Parameter]:
    parameters = {name: p for name, p in model.named_parameters() if not name.endswith((lora.A, lora.B))}
    if model.critic:
        parameters.pop(HEAD, None)
    return parameters


def _load(
    model: AudioGPT, mapping: ParameterMapping, parameter: torch.nn.Parameter, sources: list[torch.Tensor]
) -> None:
    parameter.copy_(part_of(model, mapping, sources, parameter.shape))


def part_of(
    model: AudioGPT, mapping: ParameterMapping, sources: Sequence[torch.Tensor], shape: torch.Size
) -> torch.Tensor:
    """This rank's part of a parameter from the checkpoint tensors it is made of. shape: that it must have. Raises WeightsError
    for another one."""
    ranks = parallel_state.get_tensor_model_parallel_world_size()
    rank = parallel_state.get_tensor_model_parallel_rank()
    shapes = ", ".join(f"{name} {tuple(source.shape)}" for name, source in zip(mapping.tensors, sources, strict=True))
    if mapping.layout is Layout.VOCAB:
        sources = [_pad_rows(sources[0], shape[0] * ranks)]
    part = _fuse(sources, mapping.layout, model.config.num_query_groups, ranks, rank)
    if part.shape != shape:
        raise WeightsError(f"{shapes} does not fit {mapping.parameter} {tuple(shape)}; check config.json")
    return part


def export_stream(model: AudioGPT) -> Iterator[tuple[str, torch.Tensor]]:
    """Whole tensors by checkpoint name, one parameter at a time, on the model's device (all ranks go through it together).

    A tensor is put together on the stage that holds it and sent to the others of its pipeline; it lives until the next one is
    asked for, unless the caller keeps it. Low-rank updates are added. The process groups are those in place at the call.
    """
    return _stream(
        model,
        parallel_state.get_tensor_model_parallel_group(),
        parallel_state.get_pipeline_model_parallel_group(),
    )


@torch.no_grad()
def _stream(model: AudioGPT, group: Any, pipeline: Any) -> Iterator[tuple[str, torch.Tensor]]:
    stage = pipeline.rank()
    parameters = dict(model.named_parameters())
    shapes = whole_shapes(model)
    adaptor = [model.adapter is not None]
    if pipeline.size() > 1:
        dist.broadcast_object_list(adaptor, dist.get_global_rank(pipeline, 0), group=pipeline)
    for mapping in mappings(model):
        if mapping.copy or (mapping.parameter.startswith(ADAPTER_PREFIX) and not adaptor[0]):
            continue
        if mapping.stage == stage:
            whole = whole_tensors(model, mapping, group)
        else:
            any_parameter = next(iter(parameters.values()))
            whole = [any_parameter.new_empty(shapes[name]) for name in mapping.tensors]
        for name, tensor in zip(mapping.tensors, (part.contiguous() for part in whole), strict=True):
            if pipeline.size() > 1:
                dist.broadcast(tensor, dist.get_global_rank(pipeline, mapping.stage), group=pipeline)
            yield name, tensor


def export_specs(model: AudioGPT) -> list[TensorSpec]:
    """What `export_stream` of a policy gives, in its order, in the dtype of its parameters."""
    shapes, dtype = whole_shapes(model), model.config.params_dtype
    return [
        TensorSpec(name, shapes[name], dtype)
        for mapping in mappings(model)
        if not mapping.copy
        for name in mapping.tensors
    ]


def export_tensors(model: AudioGPT) -> dict[str, torch.Tensor]:
    """All of `export_stream` at once, copied to the CPU, on every rank."""
    return {name: tensor.to("cpu", copy=True) for name, tensor in export_stream(model)}


@torch.no_grad()
def whole_tensors(model: AudioGPT, mapping: ParameterMapping, group: Any) -> list[torch.Tensor]:
    """The checkpoint tensors of one parameter of this rank's stage, low-rank update added. group: of tensor-parallel ranks, which
    call together."""
    owner, _, kind = mapping.parameter.rpartition(".")
    module = model.get_submodule(owner)
    part = lora.merged(module) if kind == "weight" else module.get_parameter(kind).detach()
    return _whole(model, mapping, part.contiguous(), group)


def _whole(model: AudioGPT, mapping: ParameterMapping, part: torch.Tensor, group: Any) -> list[torch.Tensor]:
    shards = [part]
    if group.size() > 1 and mapping.layout is not Layout.SAME:
        shards = [torch.empty_like(part) for _ in range(group.size())]
        dist.all_gather(shards, part, group=group)
    whole = split(shards, mapping.layout, model.config.num_query_groups, model.config.kv_channels)
    return [whole[0][: model.vocab_size]] if mapping.layout is Layout.VOCAB else whole


def freeze(model: AudioGPT, prefixes: Sequence[str]) -> None:
    """Stop training of every parameter whose checkpoint names start with one of `prefixes`, and of the whole decoder where
    low-rank updates are trained instead; before DDP wraps the model.

    Raises WeightsError when a prefix covers only a part of a fused parameter.
    """
    parameters = dict(model.named_parameters())
    for mapping in here(model):
        covered = [name for name in mapping.tensors if name.startswith(tuple(prefixes))]
        if covered and len(covered) < len(mapping.tensors):
            raise WeightsError(
                f"freeze covers {', '.join(covered)} but not {', '.join(set(mapping.tensors) - set(covered))}, which are "
                "one fused parameter; freeze all of them or none"
            )
        low_rank = model.low_rank and mapping.parameter.startswith(DECODER_PREFIX)
        if covered or low_rank:
            parameters[mapping.parameter].requires_grad_(False)


def mark_split(model: AudioGPT) -> None:
    """Tell Megatron which parameters are split over tensor-parallel ranks: the gradient norm counts those on every rank and
    the others once. Megatron marks biases itself, but matrices only while it draws initial weights, which we skip."""
    parameters = dict(model.named_parameters())
    for mapping in here(model):
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
