"""Reward `judge` on a real OpenAI server: vLLM with the shipped tiny model, which writes nonsense."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rewards import RewardTerm, Sample
from rewards.endpoints.runner import EndpointRunner
from rewards.registry import resolve
from rewards.sample_wire import encode_sample
from rewards.sandbox_wire import Outcome, Unit
from rollout import EngineSpec, resolve_model
from rollout.launch import engine_environment

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
START_S = 120.0
SAMPLES = 6
QUESTION = {
    "id": "q", "prompt": "Which instrument plays?", "answer": "violin", "choices": (), "audio": (), "rubric": "",
    "history": [{"role": "human", "text": "What is playing?"}, {"role": "assistant", "text": "Music."}],
}  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def vllm_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of a vLLM server on one CPU thread; ended with all its processes."""
    model, port = resolve_model(), free_port()
    spec = EngineSpec(
        model_path=model, dtype="float32", max_model_len=2048, max_num_seqs=8, kv_cache_gib=1, seed=0, max_audio_chunks=1,
        with_encoder=False, feature_dir="", threads=1, device="cpu", gpu_memory_utilization=0.5, tensor_parallel=1,
    )  # fmt: skip
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--served-model-name", "tiny",
        "--host", "127.0.0.1", "--port", str(port), "--dtype", spec.dtype, "--max-model-len", str(spec.max_model_len),
        "--max-num-seqs", str(spec.max_num_seqs), "--kv-cache-memory-bytes", str(1 << 28), "--enforce-eager",
        "--hf-overrides", '{"with_encoder": false}', "--disable-uvicorn-access-log",
    ]  # fmt: skip
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | engine_environment(spec) | {"HF_HUB_OFFLINE": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until_up(f"http://127.0.0.1:{port}/health", server, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def wait_until_up(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if httpx.get(url, timeout=1.0).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    pytest.fail(f"vLLM did not start within {START_S:.0f} s: {log.read_text()[-3000:]}")


def judge(url: str, **parameters: Any) -> tuple[list[Outcome], int]:
    """Outcomes of SAMPLES replies, and how many requests were counted."""
    term = resolve(RewardTerm("judge", 1.0, "any", {"url": url, "model": "tiny", "temperature": 1.0} | parameters))
    lines = [
        encode_sample(Sample(f"q/{i}", QUESTION, f"A violin, {i}.", "", f"A violin, {i}.", False, True, 4, 0))
        for i in range(SAMPLES)
    ]
    with EndpointRunner([term]) as runner:
        outcomes = runner.score(lines, [Unit(i, 0) for i in range(SAMPLES)])
        costs = runner.costs()["judge"]
    assert costs.tokens_in > 100 * costs.requests and costs.tokens_out >= costs.requests
    return outcomes, costs.requests


def test_nonsense_is_invalid_and_its_text_is_kept(vllm_url: str) -> None:
    outcomes, requests = judge(vllm_url, max_tokens=32)
    assert requests == 2 * SAMPLES
    for outcome in outcomes:
        assert outcome.score is None and "gave an answer that can't be read" in outcome.reason
    assert all(outcome.notes for outcome in outcomes) and len({outcome.notes for outcome in outcomes}) > 1


def test_a_model_that_is_held_to_the_form_gives_verdicts(vllm_url: str) -> None:
    held = {"structured_outputs": {"regex": "[a-z]{1,8}\nLEVEL: [1-5]"}}
    outcomes, requests = judge(vllm_url, extra=held, max_tokens=64)
    assert requests == SAMPLES
    for outcome in outcomes:
        assert outcome.score in (0.0, 0.25, 0.5, 0.75, 1.0) and outcome.notes[0] == str(round(4 * outcome.score + 1))


def test_a_wrong_model_name_is_the_reason(vllm_url: str) -> None:
    term = resolve(RewardTerm("judge", 1.0, "any", {"url": vllm_url, "model": "huge"}))
    line = encode_sample(Sample("q/0", QUESTION, "A violin.", "", "A violin.", False, True, 4, 0))
    with EndpointRunner([term]) as runner:
        (outcome,) = runner.score([line], [Unit(0, 0)])
    assert outcome.score is None and outcome.reason.startswith("judge answered 404") and "huge" in outcome.reason
