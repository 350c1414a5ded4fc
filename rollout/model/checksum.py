"""One checksum for a set of weights, computed alike by the trainer that sends and the engine that receives.

Invariant: depends on names, dtypes, shapes and bytes only; not on order, device, strides or the file they came from.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from blake3 import blake3
from torch import Tensor


def weights_checksum(tensors: Mapping[str, Tensor]) -> str:
    """Hex blake3 over (name, dtype, shape, bytes) of every tensor, sorted by name."""
    digest = blake3()
    for name in sorted(tensors):
        tensor = tensors[name].detach().to("cpu").contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
