"""CTranslate2 files: read as written, refused when damaged or quantised."""

import struct

import numpy as np
import pytest

from rollout.model.checkpoint import CheckpointError
from rollout.model.whisper import encoder_from_ct2, encoder_from_transformers, read_ct2, read_whisper_encoder

DTYPES = {"float32": 0, "int8": 1, "float16": 4}


def text(value):
    return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"


def write_ct2(path, variables, version=6):
    body = struct.pack("<I", version) + text("WhisperSpec") + struct.pack("<II", 3, len(variables))
    for name, values in variables.items():
        body += text(name) + struct.pack("<B", values.ndim) + struct.pack(f"<{values.ndim}I", *values.shape)
        body += struct.pack("<BI", DTYPES[str(values.dtype)], values.nbytes) + values.tobytes()
    path.write_bytes(body + struct.pack("<I", 0))


def variables(width=8, layers=1, dtype="float16"):
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.standard_normal(shape).astype(dtype)

    found = {"encoder/position_encodings/encodings": draw(20, width)}
    for name, shape in (("conv1", (width, 80, 3)), ("conv2", (width, width, 3))):
        found |= {f"encoder/{name}/weight": draw(*shape), f"encoder/{name}/bias": draw(width)}
    found |= {"encoder/layer_norm/gamma": draw(width), "encoder/layer_norm/beta": draw(width)}
    for i in range(layers):
        layer = f"encoder/layer_{i}"
        bias = draw(3 * width)
        bias[width : 2 * width] = 0
        found |= {f"{layer}/self_attention/linear_0/weight": draw(3 * width, width)}
        found |= {f"{layer}/self_attention/linear_0/bias": bias}
        found |= {f"{layer}/self_attention/linear_1/weight": draw(width, width)}
        found |= {f"{layer}/self_attention/linear_1/bias": draw(width)}
        for norm in ("self_attention/layer_norm", "ffn/layer_norm"):
            found |= {f"{layer}/{norm}/gamma": draw(width), f"{layer}/{norm}/beta": draw(width)}
        found |= {f"{layer}/ffn/linear_0/weight": draw(4 * width, width), f"{layer}/ffn/linear_0/bias": draw(4 * width)}
        found |= {f"{layer}/ffn/linear_1/weight": draw(width, 4 * width), f"{layer}/ffn/linear_1/bias": draw(width)}
    return found


def test_variables_are_read_as_written(tmp_path):
    written = variables()
    write_ct2(tmp_path / "model.bin", written)
    read = read_ct2(tmp_path / "model.bin")
    assert read.keys() == written.keys()
    assert all(np.array_equal(read[name], written[name]) for name in written)
    weights = read_whisper_encoder(tmp_path)
    keys = written["encoder/layer_0/self_attention/linear_0/weight"][8:16].astype(np.float32)
    assert np.array_equal(weights["encoder.blocks.0.attn.key.weight"].numpy(), keys)
    assert "encoder.blocks.0.attn.key.bias" not in weights


def test_truncated_file_is_refused(tmp_path):
    path = tmp_path / "model.bin"
    write_ct2(path, variables())
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match="fetch it again"):
        read_ct2(path)


def test_other_format_version_is_refused(tmp_path):
    write_ct2(tmp_path / "model.bin", variables(), version=5)
    with pytest.raises(CheckpointError, match="format 5"):
        read_ct2(tmp_path / "model.bin")


def test_quantised_or_foreign_model_is_refused():
    with pytest.raises(CheckpointError, match="quantised"):
        encoder_from_ct2(variables(dtype="int8"))
    with pytest.raises(CheckpointError, match="no CTranslate2 Whisper"):
        encoder_from_ct2({})
    with pytest.raises(CheckpointError, match="no Whisper encoder"):
        encoder_from_transformers({})
