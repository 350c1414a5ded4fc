"""Weights on their way to the engines: safetensors bytes under checkpoint names, versioned and checksummed.

Neighbours: `actor.trainer` exports the tensors, `rollout.pool` carries the update, `rollout.engine` recomputes the checksum.
Invariants: the frozen encoder is never sent; the same tensors give the same bytes and the same checksum.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from safetensors.torch import load, save

from rollout import WeightUpdate, weights_checksum


def weights_payload(tensors: Mapping[str, torch.Tensor], version: int) -> WeightUpdate:
    """An update of `version` from CPU tensors by checkpoint name; tensors under `encoder.` are left out."""
    sent = {name: tensors[name] for name in sorted(tensors) if not name.startswith("encoder.")}
    return WeightUpdate(version=version, checksum=weights_checksum(sent), payload=save(sent))


def payload_tensors(update: WeightUpdate) -> dict[str, torch.Tensor]:
    """Tensors of an update by checkpoint name."""
    return load(update.payload)
