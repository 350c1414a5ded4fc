"""Responses cut at the token limit are scored, paid nothing, or left out, as the stage says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.stages.scoring import Scored
from orchestrator.stages.truncation import POLICIES, trainable
from rewards import Verdict, make_sample
from rollout.messages import AnswerKind, FinishReason, Question, Trajectory

QUESTION = Question("q", "Which?", "dog", AnswerKind.EXACT)


def scored(finished: bool, valid: bool, score: float) -> Scored:
    reason = FinishReason.STOP if finished else FinishReason.LENGTH
    trajectory = Trajectory("t", "q", 0, (1,), (2, 3), (0.0, 0.0), (1, 1), (), reason, "<think>\nx\n</think>\ndog")
    verdict = Verdict(valid=valid, score=score if valid else None, reason="" if valid else "lost")
    return Scored(QUESTION, trajectory, make_sample(QUESTION, trajectory), verdict, 0, 0)


batch = st.lists(st.builds(scored, st.booleans(), st.booleans(), st.sampled_from([0.0, 0.2, 0.8, 1.0])), max_size=12)


@given(batch, st.sampled_from(POLICIES))
def test_whole_responses_keep_their_reward_and_invalid_ones_never_train(items: list[Scored], policy: str) -> None:
    kept = trainable(items, policy)
    whole = [(s, s.verdict.score) for s in items if s.verdict.valid and s.sample.finished]
    assert [(s, reward) for s, reward in kept if s.sample.finished] == whole
    assert all(s.verdict.valid for s, _ in kept)


@given(batch)
def test_each_policy_does_what_its_name_says(items: list[Scored]) -> None:
    cut = [s for s in items if s.verdict.valid and not s.sample.finished]

    def paid(policy: str) -> list[float]:
        return [reward for s, reward in trainable(items, policy) if not s.sample.finished]

    assert paid("score") == [s.verdict.score for s in cut]
    assert paid("zero") == [0.0] * len(cut)
    assert paid("invalid") == []


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="one of score, zero, invalid"):
        trainable([], "drop")
