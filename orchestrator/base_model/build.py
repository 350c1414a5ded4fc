"""One run from nothing to a base model: recordings, clips, features, tokenizer, three training stages, scores, manifest.

Neighbours: `mgrd model build-base` calls `build_base`; `rollout.model.resolve` joins the result with the encoder.
Invariants: sizes are steps and clips, so a seed fixes the result on a machine; held-out recordings are scored, never
trained on; the folder holds everything but the encoder, and the manifest names what made it.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from orchestrator.base_model.clips import ClipSource
from orchestrator.base_model.corpus import tokenizer_texts
from orchestrator.base_model.encoding import SceneEncoder, Standard, encode_scenes
from orchestrator.base_model.exercises import ExerciseWriter, Mix
from orchestrator.base_model.manifest import code_digest, file_digest, score_entry
from orchestrator.base_model.network import PseudoAudio, new_model, tiny_config
from orchestrator.base_model.scoring import Item, balanced_items, direct_score, think_score
from orchestrator.base_model.stages import Schedule, align, alignment, pretrain, train_jointly
from orchestrator.base_model.trees import TreePacker
from orchestrator.base_model.tuning import cold_start
from orchestrator.datasets.acoustic_qa.bank import Bank, bank_for
from orchestrator.datasets.acoustic_qa.questions import TASKS
from orchestrator.datasets.acoustic_qa.scenes import Catalogue, Scene
from orchestrator.datasets.acoustic_qa.sources import fetch
from rollout import PromptBuilder, save_checkpoint
from rollout.model.reference import StepAudio2ForCausalLM
from rollout.model.resolve import whisper_tiny_en
from rollout.model.tokenizer import train_tokenizer

log = logging.getLogger(__name__)
MANIFEST = "manifest.json"
VOCABULARY = 640
STANDARD_CLIPS = 3000  # mean and scale of features change by less than 1 % beyond
TASK_MARGIN = 0.15


class BaseError(RuntimeError):
    """The base cannot be built; the message says at which step and what to do."""


@dataclass(frozen=True, slots=True)
class BuildSizes:
    """How much of everything. Clips are scenes rendered and encoded; the cold starts only serve the scores: `middling`
    is what a run that goes on with RL starts from, `cold_start` shows what thinking is worth."""

    train_clips: int = 6000
    held_out_clips: int = 800
    per_task: int = 80
    pretrain: Schedule = field(default_factory=lambda: Schedule(steps=1800, clips=12, lr=1.5e-3))
    align: Schedule = field(default_factory=lambda: Schedule(steps=900, clips=32, lr=2e-3))
    joint: Schedule = field(default_factory=lambda: Schedule(steps=900, clips=16, lr=8e-4))
    pretrain_mix: Mix = field(default_factory=lambda: Mix(direct=1.0, think=0.0, describe=0.5))
    joint_mix: Mix = field(default_factory=lambda: Mix(direct=1.0, think=0.06, describe=0.5))
    middling: Schedule = field(default_factory=lambda: Schedule(steps=10, clips=32, lr=4e-4, warmup=10))
    cold_start: Schedule = field(default_factory=lambda: Schedule(steps=150, clips=32, lr=4e-4, warmup=10))
    cold_start_questions: int = 1500
    vocabulary: int = VOCABULARY


FULL = BuildSizes()
MICRO = BuildSizes(
    train_clips=16,
    held_out_clips=12,
    per_task=1,
    pretrain=Schedule(steps=3, clips=4, lr=1e-3, warmup=1),
    align=Schedule(steps=3, clips=4, lr=1e-3, warmup=1),
    joint=Schedule(steps=3, clips=4, lr=1e-3, warmup=1),
    middling=Schedule(steps=1, clips=4, lr=1e-3, warmup=1),
    cold_start=Schedule(steps=2, clips=4, lr=1e-3, warmup=1),
    cold_start_questions=8,
)


class _Clock:
    """Seconds a phase, in order."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._started = self._last = time.monotonic()

    def phase(self, name: str) -> None:
        """Ends the phase that ran until now."""
        now = time.monotonic()
        self.seconds[name] = round(now - self._last, 1)
        log.info("%s took %.0f s", name, now - self._last)
        self._last = now

    def total(self) -> float:
        return round(time.monotonic() - self._started, 1)


def build_base(
    out_dir: str | Path,
    seed: int = 1,
    *,
    sizes: BuildSizes = FULL,
    bank: Bank | None = None,
    encoder_weights: dict[str, Tensor] | None = None,
    device: str = "auto",
    processes: int = 1,
    threads: int = 1,
) -> dict[str, Any]:
    """Trains the base and writes it to out_dir; returns the manifest.

    bank, encoder_weights: default to the fetched recordings and the real Whisper tiny.en encoder; device: "auto" takes a
    GPU if there is one; processes encode clips while the decoder pretrains on `threads` threads. Raises BaseError.
    """
    clock = _Clock()
    target = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    weights = whisper_tiny_en() if encoder_weights is None else encoder_weights
    bank = bank_for(fetch()) if bank is None else bank
    catalogue = Catalogue(bank.recordings)
    clock.phase("recordings and encoder")

    tokenizer = train_tokenizer(tokenizer_texts(catalogue, seed), sizes.vocabulary)
    config = tiny_config(tokenizer)
    exercises = ExerciseWriter(PromptBuilder(tokenizer, config))
    sources = {s: ClipSource(catalogue, s, exercises, config.audio_encoder_config) for s in ("train", "held_out")}
    source = sources["train"]
    special = exercises.builder.special
    packer = TreePacker(exercises.before_ids, exercises.after_ids, special.audio_patch, special.pad)
    clock.phase("tokenizer")

    scenes = {
        "train": [source.scene(seed * 10**9 + i) for i in range(sizes.train_clips)],
        "held_out": [sources["held_out"].scene(seed * 10**9 + i) for i in range(sizes.held_out_clips)],
    }
    model = new_model(config, tokenizer).to(target)
    pseudo = PseudoAudio(source.space, config.text_config.hidden_size).to(target)
    with ThreadPoolExecutor(1) as background:
        coming: Future[dict[str, list[npt.NDArray[np.float16]]]] = background.submit(
            _encode_all, scenes, config, weights, bank, processes
        )
        pretrain(model, pseudo, source, packer, schedule=sizes.pretrain, mix=sizes.pretrain_mix, seed=seed, noise=0.3)
        clock.phase("pretrain")
        raw = coming.result()
    clock.phase("waiting for features")

    standard = Standard.of(raw["train"][:STANDARD_CLIPS])
    clips = {
        split: [
            sources[split].clip(scene, standard.apply(features))
            for scene, features in zip(scenes[split], raw.pop(split), strict=True)
        ]
        for split in ("train", "held_out")
    }
    align(model, pseudo, clips["train"], schedule=sizes.align, seed=seed)
    clock.phase("align")
    train_jointly(model, pseudo, clips["train"], source, packer, schedule=sizes.joint, mix=sizes.joint_mix, seed=seed)
    clock.phase("joint")

    heard = alignment(model, pseudo, clips["held_out"])
    log.info("held-out alignment %s", {name: round(value, 3) for name, value in heard.items()})
    parts = _Parts(
        model,
        exercises,
        packer,
        seen=balanced_items(source, clips["train"], -(-sizes.cold_start_questions // len(TASKS))),
        unseen=balanced_items(sources["held_out"], clips["held_out"], sizes.per_task),
    )
    scores = _scores(parts, sizes, seed)
    clock.phase("scores")
    out = Path(out_dir)
    try:
        save_checkpoint(out, config, _shipped(model, standard), tokenizer)
        manifest = {
            "script": "mgrd model build-base",
            "code": code_digest(),
            "seed": seed,
            "device": target.type,
            "data": {"bank": bank.digest, "recordings": len(bank.recordings)},
            "tokenizer": file_digest(out / "tokenizer.json"),
            "parameters": {
                "decoder": sum(p.numel() for p in model.model.parameters()),
                "adapter": sum(p.numel() for p in model.adapter.parameters()),
            },
            "files": _files(out),
            "sizes": dataclasses.asdict(sizes),
            "seconds": {**clock.seconds, "total": clock.total()},
            "alignment_held_out": {name: round(value, 4) for name, value in heard.items()},
            "scores_held_out": scores,
        }
        (out / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    except OSError as error:
        raise BaseError(f"cannot write the base to {out}: {error}; give a writable folder (--out)") from error
    return manifest


def _encode_all(
    scenes: dict[str, list[Scene]], config: Any, weights: dict[str, Tensor], bank: Bank, processes: int
) -> dict[str, list[npt.NDArray[np.float16]]]:
    """Raw features by split as float16; train clips are rendered with augmentation."""
    found: dict[str, list[npt.NDArray[np.float16]]] = {}
    for split, of_split in scenes.items():
        encoder = SceneEncoder(config.audio_encoder_config, weights, bank, augment=split == "train")
        found[split] = [f.astype(np.float16) for f in encode_scenes(encoder, of_split, processes)]
        log.info("%d %s clips encoded", len(of_split), split)
    return found


@dataclass(frozen=True)
class _Parts:
    """What a finished training hands to scoring and the manifest. seen: train questions for the cold start."""

    model: StepAudio2ForCausalLM
    exercises: ExerciseWriter
    packer: TreePacker
    seen: Sequence[Item]
    unseen: Sequence[Item]


def _scores(parts: _Parts, sizes: BuildSizes, seed: int) -> dict[str, Any]:
    """Held-out scores: direct on the base; thinking and direct on copies after a few and after more steps of cold start."""
    exercises, packer, unseen = parts.exercises, parts.packer, parts.unseen
    scores = {"direct": direct_score(parts.model, exercises, packer, unseen)}
    log.info("direct %s", scores["direct"].line())
    for name, schedule in (("middling", sizes.middling), ("cold_start", sizes.cold_start)):
        tuned = copy.deepcopy(parts.model)
        cold_start(tuned, exercises, packer, parts.seen, schedule=schedule, seed=seed)
        scores[f"{name}_greedy"] = think_score(tuned, exercises, unseen)
        scores[f"{name}_sampled"] = think_score(tuned, exercises, unseen, samples=2, temperature=1.0, seed=seed)
        scores[f"{name}_direct"] = direct_score(tuned, exercises, packer, unseen)
        for kind in ("greedy", "sampled", "direct"):
            log.info("%s, %s: %s", name, kind, scores[f"{name}_{kind}"].line())
    return {name: score_entry(score, TASK_MARGIN) for name, score in scores.items()}


def _shipped(model: StepAudio2ForCausalLM, standard: Standard) -> dict[str, Tensor]:
    """Weights of the folder: adaptor, decoder, feature statistics."""
    return {
        **model.state_dict(),
        "encoder.feature_mean": torch.from_numpy(standard.mean_D),
        "encoder.feature_scale": torch.from_numpy(standard.scale_D),
    }


def _files(out: Path) -> dict[str, Any]:
    names = sorted(path.name for path in out.iterdir() if path.name != MANIFEST and not path.name.startswith("."))
    return {name: {"blake3": file_digest(out / name), "bytes": (out / name).stat().st_size} for name in names}
