"""Which questions need acoustic analysis: by the table of each question's own data set, or by a list of tasks."""

import pytest

from orchestrator.stages.perceive import fitting
from rollout.messages import AnswerKind, AudioRef, Question


def question(name: str, task: str, dataset: str) -> Question:
    clip = AudioRef("/c.wav", name, 1.0)
    return Question(name, "Which?", "dog", AnswerKind.EXACT, audio=(clip,), task=task, dataset=dataset)


QUESTIONS = [
    question("a", "word", "elsewhere"),
    question("b", "word", "acoustic_qa"),
    question("c", "higher", "acoustic_qa"),
    question("d", "mood", "elsewhere"),
]


@pytest.mark.parametrize("order", [1, -1])
def test_each_data_set_goes_by_its_own_table_in_any_order(order: int) -> None:
    kept, counts = fitting(QUESTIONS[::order], [])
    assert [q.id for q in kept] == ["a", "c", "d"][::order]
    assert counts == {"no_clip": 0, "semantic_task": 1, "kept_unlisted": 2, "kept": 1}


def test_a_list_of_tasks_goes_before_the_tables() -> None:
    kept, counts = fitting(QUESTIONS, ["word"])
    assert [q.id for q in kept] == ["a", "b"]
    assert counts["semantic_task"] == 2
