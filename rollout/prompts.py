"""The one place where a question becomes token ids with audio placeholders, and a written answer becomes response ids.

Neighbours: takes `Question`s and the feature cache's `FeatureRef`s; engines get `compact_ids`, trainers `expanded_ids`.
Invariants: placeholders are expanded here only; each turn's stand before its own text; text of a question cannot smuggle in a
special token; the chat template of the tokenizer gives the same text.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
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

    def text(self, question: Question, chunks: int | Sequence[int]) -> str:
        """The prompt as text: earlier turns, then the question; each turn's audio placeholders before its text.

        chunks: audio chunks of each of `question.clips`, one placeholder a chunk; a plain number: of the last turn, when no
        earlier turn has audio.
        """
        *earlier_chunks, last_chunks = self._chunks_of_turns(question, chunks)
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
        earlier = "".join(
            f"{BOT}{turn.role}\n{AUDIO_PATCH * count}{turn.text}{EOT}"
            for turn, count in zip(question.history, earlier_chunks, strict=True)
        )
        return f"{earlier}{BOT}human\n{AUDIO_PATCH * last_chunks}{body}{EOT}{BOT}assistant\n"

    def build(
        self, question: Question, features: Sequence[FeatureRef] = (), chunks: Sequence[int] | None = None
    ) -> Prompt:
        """Token ids of a question; `features`: chunks of all its clips in order (`FeatureCache.warm(question.clips)`).

        chunks: how many of `features` belong to each of `question.clips`; may be left out when no earlier turn has audio.
        Raises PromptError when the question has audio but no features, or the reverse, when `chunks` fits neither clips nor
        features, or for text that cannot be encoded.
        """
        if bool(features) != question.is_audio or (chunks is not None and sum(chunks) != len(features)):
            raise PromptError(
                f"question {question.id!r} has {len(question.clips)} recordings "
                f"but {len(features)} feature chunks were given" + ("" if chunks is None else f", counted as {chunks}")
            )
        compact = self.encode(self.text(question, len(features) if chunks is None else chunks))
        counts = iter([patch_count(ref.frames, self._encoder) for ref in features])
        expanded: list[int] = []
        for token in compact:
            if token == self.special.audio_patch:
                patches = [token] * next(counts)
                expanded += [self.special.audio_start, *patches, self.special.audio_end]
            else:
                expanded.append(token)
        return Prompt(question.id, tuple(compact), tuple(expanded), tuple(ref.key for ref in features))

    @staticmethod
    def _chunks_of_turns(question: Question, chunks: int | Sequence[int]) -> list[int]:
        """Audio chunks of every earlier turn, then of the last. Raises PromptError when they can't be told."""
        sizes = [len(turn.audio) for turn in question.history]
        if isinstance(chunks, int):
            if any(sizes):
                raise PromptError(
                    f"question {question.id!r} has audio in earlier turns; say how many chunks each recording has"
                )
            return [0] * len(sizes) + [chunks]
        if len(chunks) != len(question.clips):
            raise PromptError(
                f"question {question.id!r} has {len(question.clips)} recordings, chunks were counted for {len(chunks)}"
            )
        rest = iter(chunks)
        return [sum(islice(rest, size)) for size in (*sizes, len(question.audio))]

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
