"""Small random models, clips and batches: for tests and benchmarks of the trainer, here and in projects that build on it.

Neighbours: tests/unit/actor, tests/parity, tests/integration, tests/benchmarks.
Invariants: everything is drawn from a seed; engine log-probs of the experiences come from the plain torch reference, so
they are what a perfect engine would have reported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actor.layout import Layout
from actor.messages import Experience, PreferencePair, SftExample
from actor.specs import OptimSpec, PPOSpec, TrainerSpec
from rollout.model.lengths import patch_count
from rollout.model.reference import SAMPLE_TEXT, StepAudio2ForCausalLM, random_config
from rollout.model.tokenizer import special_ids, train_tokenizer

FRAMES = 48  # feature frames of a clip: about 2 s


@dataclass(frozen=True, slots=True)
class Case:
    """A model folder and a feature folder."""

    model: Path
    features: Path


def optim(**changes: Any) -> OptimSpec:
    fields: dict[str, Any] = {
        "lr": 1e-3,
        "min_lr": 0.0,
        "warmup_updates": 0,
        "decay_updates": 1000,
        "decay_style": "constant",
        "weight_decay": 0.0,
        "beta1": 0.9,
        "beta2": 0.95,
        "eps": 1e-8,
        "clip_grad": 1.0,
    }
    return OptimSpec(**(fields | changes))


def ppo(**changes: Any) -> PPOSpec:
    fields: dict[str, Any] = {
        "clip_low": 0.2,
        "clip_high": 0.2,
        "gamma": 1.0,
        "lam": 1.0,
        "entropy_coef": 0.0,
        "kl_coef": 0.0,
        "value_clip": 0.0,
        "epochs": 1,
        "minibatches": 1,
        "whiten_advantages": True,
        "advantage_estimator": "gae",
        "policy_loss": "ppo",
        "loss_agg": "token-mean",
    }
    return PPOSpec(**(fields | changes))


def trainer_spec(case: Case, **changes: Any) -> TrainerSpec:
    fields: dict[str, Any] = {
        "model_path": str(case.model),
        "dtype": "float32",
        "layout": Layout(),
        "device": "cpu",
        "threads": 1,
        "seed": 7,
        "feature_dir": str(case.features),
        "micro_batch_tokens": 256,
        "freeze": ("adapter.",),
        "actor_optim": optim(),
        "critic_optim": optim(),
        "sft_optim": optim(),
        "ppo": ppo(),
        "critic": True,
    }
    return TrainerSpec(**(fields | changes))


def make_case(folder: Path, seed: int = 0, *, vocab_size: int = 320, ffn: int = 256, **sizes: Any) -> Case:
    """Model folder with random weights under `folder`; `sizes` go to `rollout.model.reference.random_config`."""
    tokenizer = train_tokenizer(SAMPLE_TEXT, vocab_size)
    config = random_config(
        vocab_size, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, **sizes
    )
    config.text_config.intermediate_size = ffn
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = StepAudio2ForCausalLM(config)
        with torch.no_grad():
            model.lm_head.weight.mul_(4)
            for name, parameter in model.model.named_parameters():
                if name.endswith("bias"):
                    parameter.normal_(std=0.1)
    return Case(model.save_pretrained(folder / "model", tokenizer), folder / "features")


def _clip(case: Case, config: Any, index: int, frames: int) -> str:
    """Random features in the cache's format; returns their key."""
    from rollout.audio.features import _write

    key = f"{index:04x}" * 16
    features = np.random.default_rng(index).standard_normal((frames, config.feature_dim)).astype(np.float32)
    _write(case.features / key[:2] / f"{key}.npy", features)
    return key


def experiences(
    case: Case,
    *,
    questions: int = 4,
    samples: int = 3,
    prompt_tokens: int = 40,
    response_tokens: int = 12,
    text_every: int = 3,
    seed: int = 0,
    with_logprobs: bool = True,
) -> list[Experience]:
    """`questions` x `samples` experiences of mixed lengths; every `text_every`-th question has no audio."""
    reference = StepAudio2ForCausalLM.from_pretrained(case.model)
    config = reference.config.audio_encoder_config
    patch_id = reference.audio_patch_id
    assert patch_id is not None
    words = (max(special_ids_of(case)) + 1, reference.config.text_config.vocab_size)
    rng = np.random.default_rng(seed)
    made = []
    for group in range(questions):
        length = max(4, prompt_tokens + int(rng.integers(-4, 5)))
        keys: tuple[str, ...] = ()
        audio: list[int] = []
        if group % text_every != text_every - 1:
            frames = FRAMES + 2 * int(rng.integers(-4, 5))
            keys = (_clip(case, config, 1000 * seed + group, frames),)
            audio = [patch_id] * patch_count(frames, config)
        text = rng.integers(*words, max(2, length - len(audio))).tolist()
        prompt = (text[0], *audio, *text[1:])
        for sample in range(samples):
            tokens = int(rng.integers(response_tokens // 2, response_tokens * 3 // 2 + 1))
            response = tuple(rng.integers(*words, max(1, tokens)).tolist())
            logprobs = tuple(reference_log_probs(reference, case, prompt, response, keys)) if with_logprobs else ()
            reward = float(rng.integers(0, 2))
            made.append(Experience(f"{group}/{sample}", prompt, response, logprobs, reward, keys, group))
    return made


def special_ids_of(case: Case) -> tuple[int, ...]:
    from rollout.model.tokenizer import load_tokenizer

    ids = special_ids(load_tokenizer(case.model))
    return (*ids.banned, ids.eot)


def reference_log_probs(
    reference: StepAudio2ForCausalLM,
    case: Case,
    prompt: tuple[int, ...],
    response: tuple[int, ...],
    keys: tuple[str, ...],
) -> list[float]:
    """Log-probs of `response` from the plain torch model, one full sequence at a time."""
    from rollout import FeatureCache

    cache = FeatureCache(case.features)
    return reference.log_probs(prompt, response, [torch.from_numpy(cache.get(key)) for key in keys]).tolist()


def sft_examples(batch: list[Experience]) -> list[SftExample]:
    return [SftExample(item.prompt_ids, item.response_ids, item.feature_keys) for item in batch]


def preference_pairs(batch: list[Experience]) -> list[PreferencePair]:
    """Each question's samples two by two, in order; reference log-probs are those of the plain torch model."""
    groups: dict[int, list[Experience]] = {}
    for item in batch:
        groups.setdefault(item.group, []).append(item)
    return [
        PreferencePair(
            pair_id=f"{group}/{first // 2}",
            prompt_ids=chosen.prompt_ids,
            chosen_ids=chosen.response_ids,
            rejected_ids=rejected.response_ids,
            feature_keys=chosen.feature_keys,
            reference_chosen=math.fsum(chosen.rollout_logprobs),
            reference_rejected=math.fsum(rejected.rollout_logprobs),
        )
        for group, items in groups.items()
        for first in range(0, len(items) - 1, 2)
        for chosen, rejected in [items[first : first + 2]]
    ]


@contextmanager
def one_rank(spec: TrainerSpec, folder: Path) -> Iterator[Any]:
    """A trainer in this process, alone in its world. `folder` holds the meeting file."""
    from actor.megatron.parallel import opened
    from actor.trainer import Trainer

    meeting = folder / "meeting"
    meeting.unlink(missing_ok=True)
    with opened(spec.layout, 0, f"file://{meeting}", device=spec.device, seed=spec.seed) as world:
        yield Trainer(spec, world)


@contextmanager
def silent(_total: int) -> Iterator[Callable[[], None]]:
    """The bar of a conversion that nobody watches."""
    yield lambda: None
