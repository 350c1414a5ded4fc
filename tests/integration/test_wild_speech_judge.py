"""A WildSpeech-Bench record, read from its published format, is graded by a judge that sees what was said and what to look for."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from endpoint_server import Answer, EndpointServer, Request, completion

from orchestrator.datasets.benchmarks import BENCHMARKS, JudgeAccess, load_benchmark
from orchestrator.evaluation.outcomes import outcome_of
from rewards import RewardSpec, Scorer, make_sample
from rollout import FinishReason, Trajectory

pytestmark = pytest.mark.slow


def test_ten_levels_become_a_value_between_a_tenth_and_one(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, 0.3 * np.sin(np.arange(8000) / 6), 16_000, format="WAV")
    row = {
        "audio": {"bytes": buffer.getvalue(), "path": None}, "user_query": "Name a short walk near a lake.",
        "taskType": "Solution Request", "checklist": "- names one walk", "conversation_hash": "abc",
        "modification_type": None, "additional_info": None,
    }  # fmt: skip
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "train.parquet")
    (question,) = load_benchmark("wild_speech", tmp_path, tmp_path / "cache")
    text = "<think>\nA voice asks for a walk.\n</think>\nTake the path to the old mill."
    ids = tuple(range(12))
    trajectory = Trajectory(
        "e/abc/0", question.id, 0, (1,), ids, (0.0,) * 12, (0,) * 12, (), FinishReason.STOP, text
    )  # fmt: skip

    def judge(request: Request) -> Answer:
        asked = request.body["messages"][0]["content"]
        assert "Name a short walk near a lake." in asked and "- names one walk" in asked
        assert "Take the path to the old mill." in asked and "A voice asks" not in asked
        assert "10: hardly to be bettered" in asked
        return completion("It names one walk, and that is all.\nLEVEL: 7")

    with EndpointServer(judge) as server:
        access = JudgeAccess(server.url, "m")
        with Scorer(RewardSpec(BENCHMARKS["wild_speech"].scoring(access), 10.0, 2048, 1)) as scorer:
            sample = make_sample(question, trajectory)
            (verdict,) = scorer.score([sample])
            assert server.requests
    assert verdict.valid, verdict.reason
    outcome = outcome_of(sample, verdict)
    assert outcome.value == pytest.approx(0.7) and not outcome.right
    assert (outcome.task, outcome.domain) == ("Solution Request", "plain")
