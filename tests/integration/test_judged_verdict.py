"""A judge beside a sandboxed function: one verdict, composed of both, with the rationale."""

from __future__ import annotations

import pytest
from endpoint_server import Answer, EndpointServer, completion

from rewards import RewardSpec, RewardTerm, Sample, Scorer

pytestmark = pytest.mark.slow

QUESTION = {
    "id": "q", "prompt": "Which instrument plays?", "answer": "violin", "answer_kind": "exact", "choices": [], "tolerance": 0.0,
    "audio": [], "domain": "", "task": "", "split": "", "source": "", "truth": {}, "history": [], "rubric": "", "dataset": "",
}  # fmt: skip


def sample(number: int, reply: str) -> Sample:
    return Sample(f"q/{number}", QUESTION, reply, "", reply, False, True, 2, 0)


def test_a_judge_and_a_function_make_one_verdict() -> None:
    with EndpointServer(lambda _: completion("It is the same instrument.\nLEVEL: 4")) as server:
        parameters = {"url": server.url, "model": "m", "attempts": 1, "breaker_failures": 1}
        terms = (RewardTerm("answer", 1.0, "any"), RewardTerm("judge", 0.5, "any", parameters))
        with Scorer(RewardSpec(terms, timeout_s=10.0, memory_mb=2048, workers=1)) as scorer:
            right, wrong = scorer.score([sample(0, "violin"), sample(1, "flute")])
            server.script = lambda _: Answer("broken", status=500)
            broken, left_alone = scorer.score([sample(2, "violin"), sample(3, "flute")])
    assert (right.score, wrong.score) == (1.375, 0.375)
    assert right.components == {"answer": 1.0, "judge": 0.75}
    assert right.notes["judge"] == "4: It is the same instrument."
    assert not broken.valid and not left_alone.valid
    reasons = broken.reason + left_alone.reason
    assert "judge answered 500" in reasons and broken.components == {"answer": 1.0}
