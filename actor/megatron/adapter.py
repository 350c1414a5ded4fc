"""Low-rank updates of a checkpoint as an adapter in PEFT's format, apart from the weights they were trained on.

Neighbours: `actor.conversion` writes the folder; `actor.megatron.streaming` reads the checkpoint; `actor.megatron.weights` splits what
Megatron fuses.
Invariants: base and adapter together are the merged model; a checkpoint whose frozen weights are not the base's is refused, since
its adapter would be another model's; one tensor is in memory at a time.

A fused layer has one A for the layers it is made of: PEFT keeps it once a layer, with that layer's rows of B.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from actor.megatron import lora, weights
from actor.megatron.model import AudioGPT
from actor.megatron.streaming import Place, Stored, kept_mappings
from actor.megatron.weights import ADAPTER_PREFIX, ParameterMapping
from actor.seal import CheckpointError
from rollout import TensorSpec

PREFIX = "base_model.model."  # of names in PEFT's files
WHOLE = ADAPTER_PREFIX.rstrip(".")  # the module that is trained as it is, beside the updates


def updated(model: AudioGPT) -> list[ParameterMapping]:
    """Parameters that have a low-rank update."""
    return [mapping for mapping in kept_mappings(model) if _owner(model, mapping) is not None]


def adapter_specs(model: AudioGPT, with_adaptor: bool) -> list[TensorSpec]:
    """What `adapter_tensors` gives, in its order. with_adaptor: the audio adaptor was trained, too."""
    shapes, dtype = weights.whole_shapes(model), model.config.params_dtype
    found = []
    for mapping in updated(model):
        rank = model.get_submodule(_module(mapping)).lora.rank
        for name in mapping.tensors:
            rows, columns = shapes[name]
            found.append(TensorSpec(_name(name, "A"), (rank, columns), dtype))
            found.append(TensorSpec(_name(name, "B"), (rows, rank), dtype))
    if with_adaptor:
        kept = [spec for spec in weights.export_specs(model) if spec.name.startswith(ADAPTER_PREFIX)]
        found += [TensorSpec(PREFIX + spec.name, spec.shape, spec.dtype) for spec in kept]
    return found


def adapter_tensors(
    stored: Stored, model: AudioGPT, places: Mapping[str, Place], with_adaptor: bool
) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors by PEFT's names. Raises CheckpointError as `Stored.read` does."""
    config = model.config
    for mapping in updated(model):
        owner = _module(mapping)
        a, b = (stored.read(places[f"{owner}.{name}"]) for name in (lora.A, lora.B))
        rows = weights.split([b], mapping.layout, config.num_query_groups, config.kv_channels)
        for name, part in zip(mapping.tensors, rows, strict=True):
            yield _name(name, "A"), a
            yield _name(name, "B"), part.contiguous()
    if with_adaptor:
        for mapping in kept_mappings(model):
            if mapping.parameter.startswith(ADAPTER_PREFIX):
                yield PREFIX + mapping.tensors[0], stored.read(places[mapping.parameter])


def adaptor_was_trained(
    stored: Stored, model: AudioGPT, places: Mapping[str, Place], base: Mapping[str, torch.Tensor], where: str
) -> bool:
    """Whether the audio adaptor differs from the one in `base` (folder `where`). Raises CheckpointError when a weight of the decoder
    does: that is the base of another checkpoint."""
    trained = False
    for mapping in kept_mappings(model):
        held = stored.read(places[mapping.parameter])
        sources = [base[name].to(held.dtype) for name in mapping.tensors]
        same = torch.equal(held, weights.part_of(model, mapping, sources, held.shape))
        if mapping.parameter.startswith(ADAPTER_PREFIX):
            trained |= not same
        elif not same:
            raise CheckpointError(
                f"{' + '.join(mapping.tensors)} in {where} is not what the checkpoint's low-rank updates were trained on; give the "
                "folder that the run started from with --base, or export with --adapter merged"
            )
    return trained


def adapter_config(model: AudioGPT, base: str, with_adaptor: bool) -> dict[str, Any]:
    """Content of adapter_config.json. base: folder or hub id of the model it belongs to."""
    mappings = updated(model)
    settings = model.get_submodule(_module(mappings[0])).lora
    layers = {name.split(".")[-2] for mapping in mappings for name in mapping.tensors}
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "target_modules": sorted(layers),
        "modules_to_save": [WHOLE] if with_adaptor else None,
    }


def _owner(model: AudioGPT, mapping: ParameterMapping) -> torch.nn.Module | None:
    module = model.get_submodule(_module(mapping))
    return module if isinstance(module, lora.LoraLayer) and mapping.parameter.endswith(".weight") else None


def _module(mapping: ParameterMapping) -> str:
    return mapping.parameter.rpartition(".")[0]


def _name(tensor: str, half: str) -> str:
    return f"{PREFIX}{tensor.removesuffix('.weight')}.lora_{half}.weight"
