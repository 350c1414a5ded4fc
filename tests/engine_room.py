"""One small engine for all tests that need one, with its reference model, clips and prompts.

Neighbours: handed out by `conftest.py` as the session fixture `engine_room`.
Invariants: the engine holds the encoder, so features and waveforms can be compared; every test that swaps weights calls
`restore()`; nothing here is random without a seed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from actor.publishing import whole_update
from rollout import (
    AnswerKind,
    AudioRef,
    Engine,
    EngineSpec,
    FeatureCache,
    ProbeSequence,
    Prompt,
    PromptBuilder,
    Question,
    SamplingSpec,
    Trajectory,
    WeightUpdate,
    load_config,
    load_tokenizer,
    load_weights,
    save_checkpoint,
)
from rollout.audio.decode import sha256_of_file
from rollout.model.reference import StepAudio2ForCausalLM, random_checkpoint

SAMPLE_RATE = 16000
CLIP_SECONDS = (0.5, 1.0, 1.7, 2.0, 2.6, 3.1)


def chirp(number: int, seconds: float) -> np.ndarray:
    t = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    noise = np.random.default_rng(number).standard_normal(len(t))
    return (0.3 * np.sin(2 * np.pi * (200 + 70 * number) * t * (1 + 0.2 * t)) + 0.02 * noise).astype(np.float32)


def sharpened(model_dir: Path) -> Path:
    """Larger decoder and adaptor matrices: what is heard and said before then moves every log-prob by about a nat."""
    tensors = load_weights(model_dir)
    for name, weight in tensors.items():
        if weight.ndim > 1 and name.startswith(("model.layers.", "adapter.")):
            weight.mul_(3 if name.startswith("adapter.") else 4)
    return save_checkpoint(model_dir, load_config(model_dir), tensors)


class Library:
    """A random tiny model, clips with cached features, and prompts about them; no engine yet."""

    def __init__(
        self, folder: Path, *, model_dir: Path | None = None, clips: Sequence[np.ndarray] | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.model_dir = model_dir or sharpened(random_checkpoint(folder / "model", 7))
        self.feature_dir = folder / "features"
        self.features = FeatureCache.for_model(self.feature_dir, self.model_dir)
        self.builder = PromptBuilder(load_tokenizer(self.model_dir), load_config(self.model_dir))
        self.reference = StepAudio2ForCausalLM.from_pretrained(self.model_dir, attention="eager")
        self.clips = clips or [chirp(number, seconds) for number, seconds in enumerate(CLIP_SECONDS)]
        self.recordings = [self._store(folder / f"{number}.wav", clip) for number, clip in enumerate(self.clips)]
        self.audio_prompts = [self.ask(f"audio {number}", [number]) for number in range(len(self.clips))]
        self.text_prompts = [self.ask(f"text {number}", []) for number in range(2)]

    def _store(self, path: Path, wave: np.ndarray) -> AudioRef:
        soundfile.write(path, wave, SAMPLE_RATE, subtype="FLOAT")
        return AudioRef(str(path), sha256_of_file(path), len(wave) / SAMPLE_RATE)

    def ask(self, name: str, clips: Sequence[int], text: str = "Which note is higher?") -> Prompt:
        audio = tuple(self.recordings[number] for number in clips)
        question = Question(name, f"{text} ({name})", "a", AnswerKind.EXACT, audio=audio)
        return self.builder.build(question, self.features.ensure(audio))

    def spec(self, *, with_encoder: bool = False, **changes: Any) -> EngineSpec:
        spec = EngineSpec(
            model_path=str(self.model_dir),
            dtype="float32",
            max_model_len=512,
            max_num_seqs=64,
            kv_cache_gib=1,
            seed=0,
            max_audio_chunks=4,
            with_encoder=with_encoder,
            feature_dir=str(self.feature_dir),
            threads=1,
            device="cpu",
            gpu_memory_utilization=0.5,
            tensor_parallel=1,
        )
        return replace(spec, **changes)

    def weights(self) -> dict[str, torch.Tensor]:
        return {n: w for n, w in load_weights(self.model_dir).items() if not n.startswith("encoder.")}

    def changed_weights(self, seed: int) -> dict[str, torch.Tensor]:
        """Other weights of the same size: every tensor disturbed by a third of its spread."""
        generator = torch.Generator().manual_seed(seed)
        return {
            name: w + 0.3 * w.std().nan_to_num() * torch.randn(w.shape, generator=generator)
            for name, w in self.weights().items()
        }

    def reference_on(self, weights: dict[str, torch.Tensor]) -> StepAudio2ForCausalLM:
        return StepAudio2ForCausalLM.from_pretrained(self.model_dir, attention="eager", weights=weights)

    def log_probs(self, model: StepAudio2ForCausalLM, sample: Trajectory) -> np.ndarray:
        """Independent recomputation [R] of a trajectory's log-probs."""
        features = [torch.from_numpy(self.features.get(key)) for key in sample.feature_keys]
        return model.log_probs(sample.prompt_ids, sample.response_ids, features).numpy()

    def worst(self, model: StepAudio2ForCausalLM, samples: Sequence[Trajectory]) -> float:
        """Largest |engine - model| over the samples' log-probs."""
        return max(float(np.abs(self.log_probs(model, s) - np.asarray(s.logprobs)).max()) for s in samples)


def update_of(version: int, weights: dict[str, torch.Tensor]) -> WeightUpdate:
    return whole_update(version, weights.items())


def probe_of(prompt: Prompt, sample: Trajectory) -> ProbeSequence:
    return ProbeSequence(prompt.compact_ids, prompt.expanded_ids, sample.response_ids, prompt.feature_keys)


def sampling(seed: int, *, samples: int = 2, tokens: int = 16, temperature: float = 1.0) -> SamplingSpec:
    return SamplingSpec(samples, temperature, tokens, seed)


class EngineRoom(Library):
    """A library with a running engine. `run` drives the engine's event loop from a test. model_dir: instead of a random model."""

    def __init__(self, folder: Path, model_dir: Path | None = None) -> None:
        super().__init__(folder, model_dir=model_dir)
        self._runner = asyncio.Runner()
        self.engine = Engine(self.spec(with_encoder=True))
        self.run(self.engine.start())

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(asyncio.wait_for(coroutine, 120))

    def generate(self, prompts: Sequence[Prompt], *, seed: int = 0, **options: Any) -> list[list[Trajectory]]:
        specs = [sampling(seed + 1000 * number, **options) for number in range(len(prompts))]
        return self.run(self.engine.generate(prompts, specs, [prompt.question_id for prompt in prompts]))

    def restore(self) -> None:
        """The folder's own weights, as version 0."""
        self.run(self.engine.swap(update_of(0, self.weights())))

    def close(self) -> None:
        self.run(self.engine.shutdown())
        self._runner.close()
