"""Tokenizer: byte-level BPE trained on the project's own text, with turn and audio tokens and a chat template.

Neighbours: `rollout.prompts` turns questions into ids with it; `train_tokenizer` makes the one of the tiny preset, the
public presets bring their own.
Invariants: the special tokens come first, in the order of SPECIAL_TOKENS; `<think>` and `</think>` are single tokens
that survive decoding; a newline is always one token of its own, a number of the form 12, -9 or 0.4 is never merged with
its neighbours, so numbers on the grids become single tokens when the training text repeats them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rollout.model.config import register_config

PAD, BOT, EOT = "<|endoftext|>", "<|BOT|>", "<|EOT|>"
AUDIO_START, AUDIO_PATCH, AUDIO_END = "<audio_start>", "<audio_patch>", "<audio_end>"
THINK, END_THINK = "<think>", "</think>"
SPECIAL_TOKENS = (PAD, BOT, EOT, AUDIO_START, AUDIO_PATCH, AUDIO_END)
MODEL_MAX_LENGTH = 4096

_PIECES = r"\n| ?-?\d+(?:\.\d+)?| ?\p{L}+| ?[^\s\p{L}\d]+|[^\S\n]+"

CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|BOT|>{{ 'human' if message['role'] == 'user' else message['role'] }}
{% if message['content'] is string -%}
{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] -%}
{{ '<audio_patch>' if part['type'] == 'audio' else part['text'] }}
{%- endfor -%}
{%- endif -%}
<|EOT|>
{%- endfor -%}
{%- if add_generation_prompt -%}
<|BOT|>assistant
{% endif -%}"""


@dataclass(frozen=True, slots=True)
class SpecialIds:
    """Token ids by role; `banned` are those a model must never sample (`<|EOT|>` is the one it ends with)."""

    pad: int
    bot: int
    eot: int
    audio_start: int
    audio_patch: int
    audio_end: int

    @property
    def banned(self) -> tuple[int, ...]:
        return (self.pad, self.bot, self.audio_start, self.audio_patch, self.audio_end)


def special_ids(tokenizer: Any) -> SpecialIds:
    """Ids of the special tokens. Raises ValueError naming those that the tokenizer does not know."""
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in SPECIAL_TOKENS if token not in vocabulary]
    if missing:
        raise ValueError(
            f"tokenizer {tokenizer.name_or_path!r} lacks {', '.join(missing)}; it is no Step-Audio 2 tokenizer"
        )
    return SpecialIds(*(vocabulary[token] for token in SPECIAL_TOKENS))


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """BPE of at most `vocab_size` tokens in all, fewer when `texts` are few.

    Raises ValueError when `vocab_size` is below 264: 6 special tokens, 256 bytes, 2 think marks.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    least = len(SPECIAL_TOKENS) + len(alphabet) + 2
    if vocab_size < least:
        raise ValueError(f"vocab_size {vocab_size} is below {least} (special tokens and bytes); raise it")
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 2,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=EOT,
        pad_token=PAD,
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        model_max_length=MODEL_MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in (THINK, END_THINK)])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def load_tokenizer(model_dir: str | Path) -> Any:
    """Tokenizer of a model folder, checked for the special tokens. Raises OSError or ValueError."""
    register_config()
    tokenizer = AutoTokenizer.from_pretrained(str(model_dir))
    special_ids(tokenizer)
    return tokenizer
