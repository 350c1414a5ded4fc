"""Weights written tensor by tensor are what safetensors reads; what was not announced is refused; a folder appears whole or not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from rollout import FolderWeights, TensorSpec, beside, load_config, load_weights, write_model, write_streamed
from rollout.model.checkpoint import CheckpointError
from rollout.model.reference import random_checkpoint
from rollout.model.streamed import folder_specs

SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)
DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool])


@st.composite
def announced(draw: st.DrawFn) -> list[TensorSpec]:
    names = draw(st.lists(st.text("ab.é", min_size=1, max_size=6), unique=True, min_size=1, max_size=8))
    return [TensorSpec(name, draw(SHAPES), draw(DTYPES)) for name in names]


def drawn(spec: TensorSpec) -> torch.Tensor:
    return torch.randn(spec.shape, generator=torch.Generator().manual_seed(len(spec.name))).to(spec.dtype)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(announced(), st.integers(1, 200))
def test_what_is_written_is_what_safetensors_reads(tmp_path: Path, specs: list[TensorSpec], limit: int) -> None:
    """In one file or in several with an index, none above the limit but for a tensor that is alone in it."""
    for old in tmp_path.iterdir():
        old.unlink()
    tensors = {spec.name: drawn(spec) for spec in specs}
    files = write_streamed(tmp_path, specs, tensors.items(), limit)
    read = {name: tensor for file in files for name, tensor in load_file(file).items()}
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype for name, tensor in tensors.items())
    assert list(folder_specs(tmp_path)) and {one.name for one in folder_specs(tmp_path)} == tensors.keys()
    assert FolderWeights(tmp_path).keys() == tensors.keys()
    for file in files:
        held = [spec for spec in specs if spec.name in load_file(file)]
        assert len(held) == 1 or sum(spec.bytes for spec in held) <= limit
    if len(files) > 1:
        index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(spec.bytes for spec in specs)


A, B = TensorSpec("a", (2,), torch.float32), TensorSpec("b", (3,), torch.float32)


@pytest.mark.parametrize(
    ("came", "said"),
    [
        ([("a", torch.zeros(2))], "b was announced, but no tensor is left"),
        ([("b", torch.zeros(3))], r"a \(2,\) torch.float32 was announced, but b \(3,\)"),
        ([("a", torch.zeros(2)), ("b", torch.zeros(3).bfloat16())], "torch.bfloat16 came"),
        ([("a", torch.zeros(2)), ("b", torch.zeros(3)), ("c", torch.zeros(1))], "c was not announced"),
    ],
)
def test_another_tensor_than_announced_is_refused(
    tmp_path: Path, came: list[tuple[str, torch.Tensor]], said: str
) -> None:
    with pytest.raises(CheckpointError, match=said):
        write_streamed(tmp_path, [A, B], came)


def test_a_folder_that_could_not_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with beside(tmp_path / "model") as work:
            (work / "file").write_text(text)
    with pytest.raises(OSError, match="full"), beside(tmp_path / "model") as work:
        (work / "file").write_text("third")
        raise OSError("full")
    assert (tmp_path / "model" / "file").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_model_folder_takes_everything_but_its_weights_from_the_base(tmp_path: Path) -> None:
    """In another dtype all of it is, and config.json says so."""
    base = random_checkpoint(tmp_path / "base", 3)
    trained = {name: tensor + 1 for name, tensor in load_weights(base).items() if not name.startswith("encoder.")}
    specs = [TensorSpec(name, tuple(tensor.shape), tensor.dtype) for name, tensor in trained.items()]
    same = load_weights(write_model(tmp_path / "same", base, specs, trained.items()))
    assert all(torch.equal(same[name], tensor) for name, tensor in trained.items())
    assert all(torch.equal(same[name], tensor) for name, tensor in load_weights(base, "encoder.").items())
    half = write_model(tmp_path / "half", base, specs, trained.items(), dtype=torch.bfloat16, shard_bytes=100_000)
    assert {tensor.dtype for tensor in load_weights(half).values()} == {torch.bfloat16}
    assert load_config(half).dtype == load_config(half).text_config.dtype == torch.bfloat16
    assert {path.name for path in base.iterdir()} - {"model.safetensors"} <= {path.name for path in half.iterdir()}
