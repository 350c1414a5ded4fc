"""Parts of the engine that need no engine."""

from __future__ import annotations

import subprocess
import sys

from rollout.errors import EngineDied, reason


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


def test_the_plugin_and_the_spec_import_neither_torch_nor_vllm() -> None:
    code = (
        "import sys, rollout, rollout.model.vllm_plugin, rollout.launch, rollout.errors, rollout.routing; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'vllm', 'ray', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
