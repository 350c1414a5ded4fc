"""Adam by slices and from the machine's memory: the same bits as all at once on the device."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actor.megatron.adam import GroupStepAdam, HostMasters, OffloadedAdam, _slices
from actor.megatron.host_memory import BLOCK_BYTES, HostMemory

SIZES = (7, 4099, 64, 1, 1025)


def parameters(dtype: torch.dtype = torch.float32) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(3)
    return [torch.nn.Parameter(torch.randn(size, generator=generator).to(dtype)) for size in SIZES]


def stepped(kind: type[GroupStepAdam], **named: int) -> tuple[list[torch.nn.Parameter], GroupStepAdam]:
    params = parameters()
    optimizer = kind(params, lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, **named)
    optimizer.start_all_moments()
    generator = torch.Generator().manual_seed(4)
    for _ in range(3):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()
    return params, optimizer


@pytest.mark.parametrize("kind", [GroupStepAdam, OffloadedAdam])
@pytest.mark.parametrize("slice_numbers", [16, 1024, 1 << 20])
def test_slices_and_the_place_of_moments_change_no_bit(kind: type[GroupStepAdam], slice_numbers: int) -> None:
    expected, whole = stepped(GroupStepAdam)
    found, sliced = stepped(kind, slice_numbers=slice_numbers)
    for p, q in zip(expected, found, strict=True):
        assert torch.equal(p, q)
        assert all(torch.equal(whole.state[p][name], sliced.state[q][name]) for name in ("exp_avg", "exp_avg_sq"))


def test_a_step_is_that_of_torchs_adamw() -> None:
    found, _ = stepped(GroupStepAdam, slice_numbers=1024)
    params = parameters()
    torchs = torch.optim.AdamW(params, lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    generator = torch.Generator().manual_seed(4)
    for _ in range(3):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator)
        torchs.step()
    for p, q in zip(params, found, strict=True):
        assert torch.allclose(p, q, rtol=1e-6, atol=1e-7)


@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 25))
@settings(max_examples=60, deadline=None)
def test_slices_hold_every_number_once_in_order_and_never_more_than_said(sizes: list[int], numbers: int) -> None:
    start = 0
    tensors = []
    for size in sizes:
        tensors.append((torch.arange(start, start + size),))
        start += size
    found = [[piece for (piece,) in pieces] for pieces in _slices(tensors, numbers)]
    assert all(sum(map(len, pieces)) <= numbers for pieces in found)
    assert torch.cat([torch.empty(0, dtype=torch.long), *(p for ps in found for p in ps)]).tolist() == list(
        range(start)
    )


@given(st.lists(st.integers(0, 700), max_size=30))
@settings(max_examples=40, deadline=None)
def test_host_memory_hands_out_pieces_that_do_not_overlap_from_blocks_of_powers_of_two(sizes: list[int]) -> None:
    memory = HostMemory(block_bytes=1024)
    pieces = [memory.empty((size,), torch.float32).fill_(number) for number, size in enumerate(sizes)]
    assert all((piece == number).all() for number, piece in enumerate(pieces))
    blocks = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in pieces if p.numel()}
    assert all(size >= 1024 and size & (size - 1) == 0 for size in blocks.values())
    assert sum(blocks.values()) <= memory.reserved


def test_host_memory_wastes_little_of_what_large_models_take() -> None:
    """Two moments of a 7 B decoder's matrices, at a 128th of their size: alone each would be rounded up to a power of two."""
    matrices = [3584 * 4608, 3584 * 3584, 3584 * 37888, 18944 * 3584] * 28 + [152064 * 3584] * 2
    memory = HostMemory(block_bytes=BLOCK_BYTES // 128)
    sizes = [size // 128 for size in matrices]
    kept = [memory.empty((size,), torch.float32) for size in sizes for _ in range(2)]
    alone = sum(1 << (4 * piece.numel() - 1).bit_length() for piece in kept)
    taken = sum(4 * piece.numel() for piece in kept)
    assert memory.reserved < 1.2 * taken < alone / 1.5


def test_masters_at_home_take_what_a_step_does_and_nothing_outside_it() -> None:
    (master,) = parameters()[1:2]
    before = master.detach().clone()
    masters = HostMasters([master])
    home = master.data
    with masters.on_device():
        assert master.data.data_ptr() != home.data_ptr()
        master.grad = torch.ones_like(master)
        with torch.no_grad():
            master.add_(1.0)
        assert torch.equal(home, before)
    assert master.data.data_ptr() == home.data_ptr()
    assert master.grad is None
    assert torch.equal(master, before + 1.0)
