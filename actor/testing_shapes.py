"""Models of 1 to 7 B by shape alone, with random weights drawn where they are needed: for measurements, no folder of gigabytes.

Neighbours: tests/gpu, tests/benchmarks/gpu_update.py; `actor.testing` has the small models that are written out whole.
Invariants: every draw comes from a seed and a tensor's name; a shape is built through the same trainer as any folder.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from actor import models
from actor.messages import Experience
from actor.testing import Case, special_ids_of
from rollout.model.reference import SAMPLE_TEXT, StepAudio2ForCausalLM, random_config
from rollout.model.tokenizer import train_tokenizer

TOKENS = 320  # of the tokenizer; rows of the vocabulary behind them have no text, which nothing here needs


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a decoder; names as in transformers' Qwen2."""

    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    tied: bool


# Qwen2.5's decoders of 1.5, 3 and 7 B (their published configurations); Step-Audio 2 mini's is the last with another vocabulary.
SHAPES = {
    "1b": Shape(1536, 8960, 28, 12, 2, 151936, True),
    "3b": Shape(2048, 11008, 36, 16, 2, 151936, True),
    "7b": Shape(3584, 18944, 28, 28, 4, 152064, False),
}


def shape_case(folder: Path, shape: Shape) -> Case:
    """A model folder without weights; open trainers on it inside `random_weights`."""
    tokenizer = train_tokenizer(SAMPLE_TEXT, TOKENS)
    config = random_config(
        shape.vocab,
        hidden=shape.hidden,
        layers=shape.layers,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        tie_word_embeddings=shape.tied,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config.text_config.intermediate_size = shape.ffn
    config.text_config.max_position_embeddings = 32768
    config.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return Case(folder / "model", folder / "features")


class RandomWeights(Mapping[str, torch.Tensor]):
    """Tensors of a model folder by checkpoint name, drawn when asked for: matrices with a standard deviation of 0.02, norms of ones,
    biases of zeros."""

    def __init__(self, model_path: str | Path, device: str, dtype: torch.dtype) -> None:
        with torch.device("meta"):
            whole = StepAudio2ForCausalLM(models.load_config(model_path))
        self._shapes = {name: tuple(tensor.shape) for name, tensor in whole.state_dict().items()}
        self._device, self._dtype = device, dtype

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor = torch.empty(self._shapes[name], device=self._device, dtype=self._dtype)
        if tensor.ndim < 2:
            return tensor.zero_() if name.endswith("bias") else tensor.fill_(1.0)
        generator = torch.Generator(self._device).manual_seed(zlib.crc32(name.encode()))
        return tensor.normal_(0.0, 0.02, generator=generator)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


@contextmanager
def random_weights(device: str, dtype: str) -> Iterator[None]:
    """Trainers opened inside take `RandomWeights` for the weights of their folder."""

    def drawn(path: str) -> RandomWeights:
        return RandomWeights(path, device, getattr(torch, dtype))

    with mock.patch.object(models, "FolderWeights", drawn):
        yield


def text_experiences(
    case: Case, *, questions: int, samples: int, prompt_tokens: int, response_tokens: int
) -> list[Experience]:
    """Of equal lengths and without audio, with rewards by turns and made-up log-probs of the engine's."""
    rng = np.random.default_rng(0)
    words = (max(special_ids_of(case)) + 1, TOKENS)
    made = []
    for group in range(questions):
        prompt = tuple(rng.integers(*words, prompt_tokens).tolist())
        for sample in range(samples):
            response = tuple(rng.integers(*words, response_tokens).tolist())
            logprobs = (-5.0,) * response_tokens
            made.append(Experience(f"{group}/{sample}", prompt, response, logprobs, float(sample % 2), (), group))
    return made
