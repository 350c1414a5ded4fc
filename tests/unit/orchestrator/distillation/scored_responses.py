"""Scored responses made to order, for tests of filters, caps and pairs."""

from __future__ import annotations

from orchestrator.stages.scoring import Scored
from rewards import Verdict, make_sample
from rollout import AnswerKind, FinishReason, Question, Trajectory

GOOD = {"answer": 1.0, "grounding": 1.0, "consistency": 1.0, "self_cognition": 1.0}


def response(
    number: int,
    text: str = "<think>\nNote 1 is about 440 Hz.\n</think>\nfirst",
    *,
    question: str = "q",
    task: str = "order",
    dataset: str = "",
    components: dict[str, float] | None = None,
    invalid: bool = False,
    finished: bool = True,
    tokens: int = 10,
    truth: bool = True,
    claims: tuple[int, int] = (1, 1),
    prompt: tuple[int, ...] = (1, 2),
    ids: tuple[int, ...] | None = None,
    version: int = 3,
) -> Scored:
    """components: beside those of GOOD; claims: true and stated."""
    asked = Question(
        question,
        "Which?",
        "first",
        AnswerKind.EXACT,
        task=task,
        dataset=dataset,
        truth={"events": [{"kind": "flute"}]} if truth else {},
    )
    response_ids = ids or (7, number + 10)
    trajectory = Trajectory(
        f"t/{question}/{number}",
        question,
        number,
        prompt,
        response_ids,
        (0.0,) * len(response_ids),
        (version,) * len(response_ids),
        ("feature",),
        FinishReason.STOP if finished else FinishReason.LENGTH,
        text,
    )
    verdict = Verdict.invalid("broken") if invalid else Verdict(True, 1.0, GOOD | (components or {}))
    return Scored(asked, trajectory, make_sample(asked, trajectory, reasoning_tokens=tokens), verdict, *claims)
