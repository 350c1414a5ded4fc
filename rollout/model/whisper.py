"""Whisper encoder weights under our names, from CTranslate2's model.bin or from a transformers Whisper folder.

Neighbours: `resolve` finds the files, `encoder.AudioEncoder` takes the result.
Invariants: pure conversion, no download; float32 out; the same network whichever source it came from (a parity test compares
with transformers' WhisperEncoder).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rollout.model.checkpoint import CheckpointError, load_weights

CT2_DTYPES = {0: "float32", 1: "int8", 2: "int16", 3: "int32", 4: "float16"}
CT2_VERSION = 6


class _Reader:
    """Cursor over the bytes of a CTranslate2 model: little-endian numbers and length-prefixed C strings."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.offset = 0

    def number(self, code: str) -> int:
        (value,) = struct.unpack_from("<" + code, self.data, self.offset)
        self.offset += struct.calcsize(code)
        return value

    def text(self) -> str:
        length = self.number("H")
        raw = self.data[self.offset : self.offset + length - 1]  # the last byte is the terminator
        self.offset += length
        return raw.decode()

    def array(self) -> np.ndarray:
        shape = [self.number("I") for _ in range(self.number("B"))]
        dtype = np.dtype(CT2_DTYPES[self.number("B")])
        size = self.number("I")
        values = np.frombuffer(self.data, dtype, size // dtype.itemsize, self.offset).reshape(shape)
        self.offset += size
        return values


def read_ct2(path: str | Path) -> dict[str, np.ndarray]:
    """Variables of a CTranslate2 model.bin by name, read-only. Raises CheckpointError when it is damaged or of another kind."""
    try:
        reader = _Reader(Path(path).read_bytes())
        version = reader.number("I")
        if version != CT2_VERSION:
            raise CheckpointError(f"{path} has CTranslate2 format {version}; format {CT2_VERSION} is the one read here")
        reader.text()  # name of the model specification
        reader.number("I")  # its revision
        variables = {}
        for _ in range(reader.number("I")):
            name = reader.text()
            variables[name] = reader.array()
    except (OSError, struct.error, KeyError, ValueError) as error:
        raise CheckpointError(f"cannot read {path} as a CTranslate2 model: {error!r}; fetch it again") from error
    return variables


def encoder_from_ct2(variables: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """`encoder.*` weights out of a CTranslate2 Whisper. Raises CheckpointError when a variable is missing or quantised."""
    weights: dict[str, Tensor] = {}

    def take(name: str) -> Tensor:
        if f"encoder/{name}" not in variables:
            raise CheckpointError(f"variable encoder/{name} is missing; this is no CTranslate2 Whisper model")
        values = variables[f"encoder/{name}"]
        if values.dtype.kind != "f":
            raise CheckpointError(
                f"variable encoder/{name} is {values.dtype}; a quantised model cannot be used, take float16"
            )
        return torch.from_numpy(values.astype(np.float32))

    def copy(target: str, source: str, parts: tuple[str, str] = ("weight", "bias")) -> None:
        weights[f"encoder.{target}.weight"] = take(f"{source}/{parts[0]}")
        weights[f"encoder.{target}.bias"] = take(f"{source}/{parts[1]}")

    norm = ("gamma", "beta")
    for conv in ("conv1", "conv2"):
        copy(conv, conv)
    weights["encoder.positional_embedding.weight"] = take("position_encodings/encodings")
    layers = sum(name.startswith("encoder/layer_") and name.endswith("/ffn/linear_0/bias") for name in variables)
    for i in range(layers):
        source, block = f"layer_{i}", f"blocks.{i}"
        projections = take(f"{source}/self_attention/linear_0/weight").chunk(3)
        biases = take(f"{source}/self_attention/linear_0/bias").chunk(3)
        for name, weight, bias in zip(("query", "key", "value"), projections, biases, strict=True):
            weights[f"encoder.{block}.attn.{name}.weight"] = weight.contiguous()
            if name != "key":
                weights[f"encoder.{block}.attn.{name}.bias"] = bias.contiguous()
            elif bias.any():
                raise CheckpointError(f"encoder/{source} has a key bias; Whisper has none")
        copy(f"{block}.attn.out", f"{source}/self_attention/linear_1")
        copy(f"{block}.attn_ln", f"{source}/self_attention/layer_norm", norm)
        copy(f"{block}.mlp.0", f"{source}/ffn/linear_0")
        copy(f"{block}.mlp.2", f"{source}/ffn/linear_1")
        copy(f"{block}.mlp_ln", f"{source}/ffn/layer_norm", norm)
    copy("after_norm", "layer_norm", norm)
    return weights


_TRANSFORMERS_NAMES = {
    "embed_positions.": "positional_embedding.",
    "layers.": "blocks.",
    "self_attn_layer_norm.": "attn_ln.",
    "final_layer_norm.": "mlp_ln.",
    "self_attn.q_proj.": "attn.query.",
    "self_attn.k_proj.": "attn.key.",
    "self_attn.v_proj.": "attn.value.",
    "self_attn.out_proj.": "attn.out.",
    "fc1.": "mlp.0.",
    "fc2.": "mlp.2.",
}


def encoder_from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`encoder.*` weights out of a transformers Whisper state dict (of the whole model or of its encoder alone)."""
    weights: dict[str, Tensor] = {}
    for name, tensor in state.items():
        head, _, rest = name.rpartition("encoder.") if "encoder." in name else ("", "", name)
        if "decoder." in name or name.startswith("proj_out") or head not in ("", "model."):
            continue
        for theirs, ours in _TRANSFORMERS_NAMES.items():
            rest = rest.replace(theirs, ours)
        if rest.startswith("layer_norm."):
            rest = "after_norm." + rest.removeprefix("layer_norm.")
        weights[f"encoder.{rest}"] = tensor.float().contiguous()
    if "encoder.conv1.weight" not in weights:
        raise CheckpointError("no Whisper encoder among the weights; expected names such as model.encoder.conv1.weight")
    return weights


def read_whisper_encoder(path: str | Path) -> dict[str, Tensor]:
    """`encoder.*` float32 weights from a CTranslate2 model.bin, its folder, or a transformers Whisper folder."""
    path = Path(path)
    if path.is_dir():
        if not (path / "model.bin").is_file():
            return encoder_from_transformers(load_weights(path))
        path = path / "model.bin"
    return encoder_from_ct2(read_ct2(path))
