"""Parts of the engine that need no engine."""

from __future__ import annotations

import subprocess
import sys

from rollout.errors import EngineDied, reason
from rollout.model.vllm_plugin.weights import mismatch

SHAPES = {"adapter.conv.bias": (8,), "model.norm.weight": (4,), "model.embed_tokens.weight": (16, 4)}


def test_the_reason_of_an_empty_error_is_its_cause() -> None:
    class EngineGenerateError(Exception):
        pass

    try:
        try:
            raise ValueError("audio features must be floats")
        except ValueError as cause:
            raise EngineGenerateError from cause
    except EngineGenerateError as error:
        assert reason(error) == "ValueError: audio features must be floats"


def test_a_reason_tells_the_whole_chain_once() -> None:
    inner = RuntimeError("out of memory")
    outer = EngineDied("engine died: out of memory")
    outer.__cause__ = inner
    assert reason(outer) == "EngineDied: engine died: out of memory"


def test_a_complete_set_of_weights_fits_with_or_without_the_tied_head() -> None:
    assert mismatch(SHAPES, SHAPES) == ""
    assert mismatch(SHAPES, {**SHAPES, "lm_head.weight": (16, 4)}) == ""


def test_a_set_of_weights_that_does_not_fit_is_described() -> None:
    given = {"adapter.conv.bias": (9,), "model.norm.weight": (4,), "encoder.conv1.bias": (2,)}
    text = mismatch(SHAPES, given)
    assert "1 missing: model.embed_tokens.weight" in text
    assert "1 unknown: encoder.conv1.bias" in text
    assert "1 of another shape: adapter.conv.bias" in text


def test_the_plugin_and_the_spec_import_neither_torch_nor_vllm() -> None:
    code = (
        "import sys, rollout, rollout.model.vllm_plugin, rollout.launch, rollout.errors, rollout.routing; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'vllm', 'ray', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
