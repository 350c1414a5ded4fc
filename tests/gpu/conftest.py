"""Checks that need CUDA: collected everywhere, skipped without a GPU. `make gpu` runs them all; docs/GPU.md says what each compares."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(autouse=True, scope="session")
def gpu() -> str:
    """Name of the GPU."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs CUDA; run `make gpu` on a machine with a GPU")
    return torch.cuda.get_device_name()


@pytest.fixture
def engine(gpu: str) -> Any:
    """Transformer Engine can run here."""
    from actor.kernels import kernel_facts, resolve_kernels

    chosen = resolve_kernels("auto", "cuda", kernel_facts("cuda"))
    if not chosen.engine:
        pytest.skip(f"needs Transformer Engine: {chosen.reason}")
    return chosen


@pytest.fixture(params=["torch", "transformer_engine"])
def kernels(request: pytest.FixtureRequest) -> str:
    """Each choice in turn; Transformer Engine's where it can run."""
    if request.param == "transformer_engine":
        request.getfixturevalue("engine")
    return str(request.param)
