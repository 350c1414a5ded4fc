"""What the base is taught to say: direct answers, reasoning chains, plain descriptions.

Neighbours: texts come from `questions` and `chains`, ids from `rollout.prompts`, they go to `trees`.
Invariants: a path from the clip to a reply is, id for id, what `PromptBuilder` makes of the question; a description
states perceptions without a conclusion and follows its own request, never a question alone.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import lru_cache

from orchestrator.base_model.trees import Exercise
from orchestrator.datasets.acoustic_qa.chains import chain, perceptions
from rollout import PromptBuilder
from rollout.messages import Question

DESCRIBE = "Say what you hear. "


def training_texts(question: Question, builder_text: str) -> tuple[str, ...]:
    """Texts of one question for the tokenizer: prompt, reasoned reply, request to describe."""
    return (builder_text, f"<think>\n{chain(question)}\n</think>\n{question.answer}", DESCRIBE + question.prompt)


@dataclass(frozen=True, slots=True)
class Mix:
    """Shares (0..1) of a question's replies: the direct answer, the reasoned one, and the request to describe."""

    direct: float = 1.0
    think: float = 0.5
    describe: float = 0.3


class ExerciseWriter:
    """Turns questions into token ids; every distinct text is encoded once."""

    def __init__(self, builder: PromptBuilder) -> None:
        self.builder = builder
        self._prompt = lru_cache(maxsize=100_000)(self._split_prompt)
        self._response = lru_cache(maxsize=100_000)(builder.response)
        special = builder.special
        example = builder.encode(builder.text(Question("", "", "", "exact"), 1))  # type: ignore[arg-type]
        self.before_ids = (*example[: example.index(special.audio_patch)], special.audio_start)
        self.after_ids = (special.audio_end,)

    def _split_prompt(self, question_text: str, choices: tuple[str, ...]) -> tuple[int, ...]:
        question = Question("", question_text, "", "choice", choices)  # type: ignore[arg-type]
        ids = self.builder.encode(self.builder.text(question, 1))
        return tuple(ids[ids.index(self.builder.special.audio_patch) + 1 :])

    @property
    def empty_think_ids(self) -> tuple[int, ...]:
        """What stands before the reply of a direct answer."""
        return self._response("", "")[:-1]

    def prompt_ids(self, question: Question, patches: int) -> tuple[int, ...]:
        """The whole prompt about one clip, expanded."""
        clip = (self.builder.special.audio_patch,) * patches
        return (*self.before_ids, *clip, *self.after_ids, *self._prompt(question.prompt, question.choices))

    def direct_ids(self, question: Question) -> tuple[int, ...]:
        return self._response("", question.answer)

    def think_ids(self, question: Question) -> tuple[int, ...]:
        return self._response(chain(question), question.answer)

    def answering(self, question: Question, direct: bool, think: bool) -> Exercise:
        """The question with its direct reply, its reasoned reply, or both as branches."""
        replies = ([self.direct_ids(question)] if direct else []) + ([self.think_ids(question)] if think else [])
        return Exercise(self._prompt(question.prompt, question.choices), tuple(replies))

    def describing(self, question: Question) -> Exercise:
        """The request to state what is heard, in the words of the question's chain."""
        asked = dataclasses.replace(question, prompt=DESCRIBE + question.prompt)
        return Exercise(self._prompt(asked.prompt, asked.choices), (self._response("", perceptions(question)),))
