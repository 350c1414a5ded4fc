"""Weights as buckets in a message: bytes are stored once, whole updates come back bit for bit."""

from __future__ import annotations

import numpy as np
import torch

from actor.publishing import MessagePublisher, payload_tensors, whole_update


def some_weights(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = {"a.weight": (400, 600), "b.weight": (300, 600), "b.bias": (300,), "c.weight": (700, 500), "d": ()}
    return {name: torch.randn(size, generator=generator) for name, size in sizes.items()} | {"e": torch.zeros(0, 3)}


def test_an_update_comes_back_bit_for_bit() -> None:
    weights = some_weights(0) | {"f": torch.randn(5).bfloat16()}
    back = payload_tensors(whole_update(3, weights.items()))
    assert list(back) == list(weights)
    assert all(torch.equal(back[name], tensor) and back[name].dtype == tensor.dtype for name, tensor in weights.items())


def test_only_buckets_with_a_change_are_stored_again() -> None:
    stored: list[int] = []

    def store(bytes_N: np.ndarray) -> bytes:
        stored.append(bytes_N.size)
        return bytes_N.tobytes()

    publisher, weights = MessagePublisher(store, bucket_mib=1, only_changed=True), some_weights(1)
    first = publisher.publish(1, weights.items())
    assert len(first.buckets) == len(stored) == 4
    again = publisher.publish(1, weights.items())
    assert (again.checksum, again.written_bytes, len(stored)) == (first.checksum, 0, 4)
    other = publisher.publish(2, (weights | {"b.bias": weights["b.bias"] + 1}).items())
    assert other.checksum != first.checksum and len(stored) == 5
    assert [one is two for one, two in zip(other.buckets, first.buckets, strict=True)] == [True, False, True, True]
