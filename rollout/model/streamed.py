"""A Hugging Face folder written one tensor at a time: nothing but the tensor at hand is in memory.

Neighbours: `checkpoint` writes whole models that are in memory anyway and reads both; `actor` streams checkpoints and the weights
of a running trainer through this.
Invariants: names, shapes and dtypes are announced before the first tensor and hold; a folder is written beside its name and gets
it when everything is on disk, so one that was there before stays until then; the layout of the bytes is the format's own.

safetensors has no writer that takes tensors one after the other, but its format is a header with every tensor's place, then the
bytes in that order (https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import safe_open
from torch import Tensor

from rollout.model.checkpoint import (
    INDEX,
    WEIGHTS,
    CheckpointError,
    FolderWeights,
    copy_companions,
    save_config,
    weight_files,
)
from rollout.model.config import load_config

ENCODER = "encoder."  # prefix of what is never trained
SHARD_BYTES = 5 * 10**9  # largest weight file, as the hub has them
_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor that is to come."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def folder_specs(model_dir: str | Path, prefix: str = "") -> Iterator[TensorSpec]:
    """What a folder's files announce, without reading tensors, in the order in which `iterate_weights` gives them. Raises
    CheckpointError."""
    for path in weight_files(model_dir):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                if name.startswith(prefix):
                    part = file.get_slice(name)
                    yield TensorSpec(name, tuple(part.get_shape()), _DTYPES[part.get_dtype()])


@contextmanager
def beside(target: Path) -> Iterator[Path]:
    """A new folder that takes the name `target`, and the place of what has it, when the block ends well; else it is deleted."""
    target.parent.mkdir(parents=True, exist_ok=True)
    work, old = (target.with_name(f".{target.name}.{kind}") for kind in ("tmp", "old"))
    for stale in (work, old):
        shutil.rmtree(stale, ignore_errors=True)
    work.mkdir()
    try:
        yield work
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    if target.exists():
        os.replace(target, old)
    os.replace(work, target)
    shutil.rmtree(old, ignore_errors=True)


def write_model(
    target: Path,
    base: str | Path,
    specs: Sequence[TensorSpec],
    tensors: Iterable[tuple[str, Tensor]],
    *,
    dtype: torch.dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """A complete model folder: config, tokenizer and frozen encoder of the folder `base`, adaptor and decoder from `tensors`, which
    come in the order of `specs`. dtype: of all weights; None: the encoder's as in `base`, the others as announced. Its
    config.json names the decoder's dtype, which is the one that engines load it in. Raises CheckpointError."""
    config = load_config(base)
    encoder = list(folder_specs(base, ENCODER))
    stored = FolderWeights(base)
    together = chain(((spec.name, stored[spec.name]) for spec in encoder), tensors)
    announced = [spec if dtype is None else replace(spec, dtype=dtype) for spec in (*encoder, *specs)]
    cast = ((name, tensor if dtype is None else tensor.to(dtype)) for name, tensor in together)
    config.dtype = config.text_config.dtype = announced[-1].dtype
    with beside(target) as work:
        save_config(work, config)
        copy_companions(base, work)
        write_streamed(work, announced, cast, shard_bytes)
    return target


def write_streamed(
    folder: Path, specs: Sequence[TensorSpec], tensors: Iterable[tuple[str, Tensor]], shard_bytes: int = SHARD_BYTES
) -> list[Path]:
    """Write `tensors`, which come in the order of `specs`, into one file, or into several with an index when they are more than
    `shard_bytes` together. Returns the files. Raises CheckpointError for a tensor that was not announced so; what is in `folder`
    is then of no use."""
    shards = _shards(specs, shard_bytes)
    names = [WEIGHTS] if len(shards) == 1 else _shard_names(len(shards))
    source = iter(tensors)
    for name, shard in zip(names, shards, strict=True):
        with (folder / name).open("wb") as file:
            file.write(_header(shard))
            for spec in shard:
                _write(file, spec, next(source, None))
            file.flush()
            os.fsync(file.fileno())
    if (extra := next(source, None)) is not None:
        raise CheckpointError(f"{extra[0]} was not announced; {folder} is not complete")
    if len(shards) > 1:
        places = {spec.name: name for shard, name in zip(shards, names, strict=True) for spec in shard}
        index = {"metadata": {"total_size": sum(spec.bytes for spec in specs)}, "weight_map": places}
        (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n")
    return [folder / name for name in names]


def _shard_names(count: int) -> list[str]:
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def _shards(specs: Sequence[TensorSpec], limit: int) -> list[list[TensorSpec]]:
    """In order, each as full as the limit lets it; a tensor above the limit has a file of its own."""
    shards: list[list[TensorSpec]] = [[]]
    filled = 0
    for spec in specs:
        if shards[-1] and filled + spec.bytes > limit:
            shards.append([])
            filled = 0
        shards[-1].append(spec)
        filled += spec.bytes
    return shards


def _header(specs: Sequence[TensorSpec]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for spec in specs:
        end = start + spec.bytes
        entries[spec.name] = {"dtype": _NAMES[spec.dtype], "shape": list(spec.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write(file: BinaryIO, spec: TensorSpec, came: tuple[str, Tensor] | None) -> None:
    if came is None:
        raise CheckpointError(f"{spec.name} was announced, but no tensor is left")
    name, tensor = came
    if (name, tuple(tensor.shape), tensor.dtype) != (spec.name, spec.shape, spec.dtype):
        raise CheckpointError(
            f"{spec.name} {spec.shape} {spec.dtype} was announced, but {name} {tuple(tensor.shape)} {tensor.dtype} came"
        )
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    if flat.numel():
        file.write(flat.view(torch.uint8).numpy().data)
