"""The weights checksum sees names, dtypes, shapes and bytes, and nothing else."""

import torch

from rollout import weights_checksum


def test_order_and_memory_layout_do_not_matter():
    a, b = torch.randn(3, 4), torch.randn(5)
    assert weights_checksum({"a": a, "b": b}) == weights_checksum({"b": b, "a": a.T.contiguous().T})


def test_name_value_dtype_and_shape_matter():
    a = torch.arange(6.0)
    changed = a.clone()
    changed[3] += 1e-6
    sums = [
        weights_checksum(w)
        for w in ({"a": a}, {"b": a}, {"a": changed}, {"a": a.half()}, {"a": a.reshape(2, 3)}, {"a": a, "c": a[:0]})
    ]
    assert len(set(sums)) == len(sums)


def test_bfloat16_scalars_and_empty_tensors_are_taken():
    assert weights_checksum({"a": torch.ones(2, dtype=torch.bfloat16), "b": torch.tensor(1.0), "c": torch.zeros(0)})
