"""The one place where a question becomes token ids with audio placeholders, and a written answer becomes response ids.

Neighbours: takes `Question`s and the feature cache's `FeatureRef`s; engines get `compact_ids`, trainers `expanded_ids`.
Invariants: placeholders are expanded here only; text of a question cannot smuggle in a special token; the chat
template of the tokenizer gives the same text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rollout.audio.refs import FeatureRef
from rollout.messages import Prompt, Question
from rollout.model.config import StepAudio2Config
from rollout.model.lengths import patch_count
from rollout.model.tokenizer import AUDIO_PATCH, BOT, END_THINK, EOT, SPECIAL_TOKENS, THINK, special_ids

ROLES = ("human", "assistant")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class PromptError(ValueError):
    """A question that cannot become a prompt."""


class PromptBuilder:
    """Builds prompts and reference responses for one tokenizer and model configuration."""

    def __init__(self, tokenizer: Any, config: StepAudio2Config) -> None:
        self.tokenizer = tokenizer
        self.special = special_ids(tokenizer)
        self._encoder = config.audio_encoder_config

    def text(self, question: Question, chunks: int) -> str:
        """The prompt as text: earlier turns, then the question with one placeholder for each of `chunks` audio chunks."""
        options = "".join(f"\n{letter}. {choice}" for letter, choice in zip(LETTERS, question.choices, strict=False))
        body = question.prompt + options
        spoken = "".join(turn.text for turn in question.history) + body
        for token in SPECIAL_TOKENS:
            if token in spoken:
                raise PromptError(f"question {question.id!r} holds the special token {token} in its text; take it out")
        if len(question.choices) > len(LETTERS):
            raise PromptError(
                f"question {question.id!r} has {len(question.choices)} choices; {len(LETTERS)} are the most"
            )
        unknown = [turn.role for turn in question.history if turn.role not in ROLES]
        if unknown:
            raise PromptError(
                f"question {question.id!r}: a turn's role is {' or '.join(ROLES)}, not {unknown[0]!r}; correct its history"
            )
        earlier = "".join(f"{BOT}{turn.role}\n{turn.text}{EOT}" for turn in question.history)
        return f"{earlier}{BOT}human\n{AUDIO_PATCH * chunks}{body}{EOT}{BOT}assistant\n"

    def build(self, question: Question, features: Sequence[FeatureRef] = ()) -> Prompt:
        """Token ids of a question; `features`: its audio's chunks in order (`FeatureCache.ensure(question.audio)`).

        Raises PromptError when the question has audio but no features, or the reverse, or text that cannot be encoded.
        """
        if bool(features) != question.is_audio:
            raise PromptError(
                f"question {question.id!r} has {len(question.audio)} recordings "
                f"but {len(features)} feature chunks were given"
            )
        compact = self.encode(self.text(question, len(features)))
        counts = iter([patch_count(ref.frames, self._encoder) for ref in features])
        expanded: list[int] = []
        for token in compact:
            if token == self.special.audio_patch:
                patches = [token] * next(counts)
                expanded += [self.special.audio_start, *patches, self.special.audio_end]
            else:
                expanded.append(token)
        return Prompt(question.id, tuple(compact), tuple(expanded), tuple(ref.key for ref in features))

    def response(self, reasoning: str, reply: str) -> tuple[int, ...]:
        """Ids of a written response, end token included; empty `reasoning` is the direct answer."""
        for token in SPECIAL_TOKENS:
            if token in reasoning or token in reply:
                raise PromptError(f"a response holds the special token {token} in its text; take it out")
        return tuple(self.encode(response_text(reasoning, reply) + EOT))

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of response ids without special tokens; the think marks stay."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)


def response_text(reasoning: str, reply: str) -> str:
    """A response as text, without the end token."""
    return f"{THINK}\n{reasoning}\n{END_THINK}\n{reply}"
