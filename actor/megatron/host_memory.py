"""Tensors in the machine's memory, page-locked beside a GPU, in blocks that waste little of it.

Neighbours: `actor.megatron.adam` keeps moments and masters there. Invariants: pieces never overlap and start at whole cache lines; a block
lives as long as a piece of it; torch's allocator of page-locked memory rounds a request up to a power of two, so blocks are
powers of two and tensors are cut out of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

# At 2 GiB a seventh is wasted at most on the models of docs/PLANS.md; alone, their tensors would take up to 1.9 times their size.
BLOCK_BYTES = 1 << 31
LINE_BYTES = 64


class HostMemory:
    """Grows by blocks as tensors are asked for. block_bytes: of a block, more for a tensor that needs more."""

    def __init__(self, block_bytes: int = BLOCK_BYTES) -> None:
        self._block_bytes = block_bytes
        self._blocks: list[tuple[torch.Tensor, int]] = []  # and the bytes of each that are taken

    @property
    def reserved(self) -> int:
        """Bytes of all blocks."""
        return sum(block.numel() for block, _ in self._blocks)

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """A tensor of whatever the memory holds."""
        size = math.prod(shape) * dtype.itemsize
        taken = -(-size // LINE_BYTES) * LINE_BYTES
        number = next((i for i, (block, used) in enumerate(self._blocks) if used + taken <= block.numel()), None)
        if number is None:
            number = len(self._blocks)
            room = max(self._block_bytes, 1 << max(0, taken - 1).bit_length())
            self._blocks.append((torch.empty(room, dtype=torch.uint8, pin_memory=torch.cuda.is_available()), 0))
        block, used = self._blocks[number]
        self._blocks[number] = block, used + taken
        return block[used : used + size].view(dtype).view(tuple(shape))

    def copy_of(self, tensor: torch.Tensor) -> torch.Tensor:
        return self.empty(tensor.shape, tensor.dtype).copy_(tensor)
