"""A sealed checkpoint as a Hugging Face folder, and such a folder as a checkpoint: tensor by tensor, in a process of its own.

Neighbours: `orchestrator.checkpoint_cli` offers it as `mgrd export` and `mgrd import`; `actor.megatron.streaming` and
`actor.megatron.adapter` read and write tensors, `rollout` the folders, `actor.seal` says what is whole.
Invariants: nothing is read of a checkpoint before all of it was verified; what is written appears under its name whole or not at
all; no layout, optimizer or rank of the run that wrote the checkpoint is needed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from actor.layout import Layout
from actor.megatron import adapter, weights
from actor.megatron.streaming import Described, Stored, places_of, stored_tensors, whole_model, write_weights
from actor.seal import SEAL, CheckpointError, Seal, check, read_seal, seal_of, write_seal
from rollout import FolderWeights, beside, load_config, write_model, write_streamed

ACTOR = "actor"  # folder of a trainer's checkpoint
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Bar = Callable[[int], AbstractContextManager[Callable[[], None]]]  # of how many tensors; called after each
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Actor:
    """The actor in a checkpoint. folder: of its files; base: Hugging Face folder that the run started from."""

    folder: Path
    seal: Seal
    base: str

    @classmethod
    def of(cls, checkpoint: Path, base: str = "", part: str = ACTOR) -> Actor:
        """Every file of the actor in `checkpoint`/`part` is whole, contents read and compared, and belongs to this checkpoint. base:
        instead of what the seal says. Raises CheckpointError."""
        check(checkpoint, below=part)
        folder = checkpoint / part
        seal = read_seal(folder)
        chosen = base or str(seal.about.get("model_path", ""))
        if not (Path(chosen) / "config.json").is_file():
            raise CheckpointError(
                f"the model folder that {folder} was trained from is not here: {chosen or 'unknown'}; give a Hugging Face folder of "
                "the same model with --base, for its config, tokenizer and encoder"
            )
        return cls(folder, seal, chosen)


def export_merged(
    actor: Actor, target: Path, bar: Bar, dtype: Literal["", "float32", "bfloat16", "float16"] = ""
) -> Path:
    """A folder that engines and transformers-style loaders read, low-rank updates added to the weights. dtype "": as trained. Raises
    CheckpointError."""
    with whole_model(Described.of(actor.seal, load_config(actor.base))) as (model, _):
        announced = weights.export_specs(model)
        with bar(len(announced)) as advance:
            tensors = _counted(stored_tensors(actor.folder, model), advance)
            return write_model(target, actor.base, announced, tensors, dtype=getattr(torch, dtype) if dtype else None)


def export_adapter(actor: Actor, target: Path, bar: Bar) -> Path:
    """The low-rank updates alone as a PEFT adapter of the base, with the audio adaptor where that was trained. Raises CheckpointError
    for a checkpoint without updates, and for a base that is not theirs."""
    described = Described.of(actor.seal, load_config(actor.base))
    if not described.lora_rank:
        raise CheckpointError(
            f"{actor.folder} holds no low-rank update: its run trained the weights themselves (actor.lora.rank=0); "
            "export with --adapter merged"
        )
    with whole_model(described) as (model, _):
        stored, places = Stored(actor.folder), places_of(model)
        with_adaptor = adapter.adaptor_was_trained(stored, model, places, FolderWeights(actor.base), actor.base)
        announced = adapter.adapter_specs(model, with_adaptor)
        with bar(len(announced)) as advance, beside(target) as work:
            tensors = adapter.adapter_tensors(stored, model, places, with_adaptor)
            (written,) = write_streamed(work, announced, _counted(tensors, advance), sys.maxsize)
            written.rename(work / ADAPTER_WEIGHTS)
            config = adapter.adapter_config(model, actor.base, with_adaptor)
            (work / ADAPTER_CONFIG).write_text(json.dumps(config, indent=1) + "\n")
    return target


def import_folder(source: str, target: Path, bar: Bar, dtype: str = "") -> Path:
    """A checkpoint of a trainer, the actor's weights alone, from a Hugging Face folder; `Trainer.load_weights_only` reads it in any
    layout. dtype "": as the folder's config.json says. Raises CheckpointError, WeightsError for a folder of another model."""
    config = load_config(source)
    named = dtype or str(config.dtype or config.text_config.dtype or "float32").removeprefix("torch.")
    described = Described(config, named)
    about: dict[str, Any] = {"stage": "import", "layout": str(Layout()), "model_path": str(Path(source).absolute())}
    about |= {"dtype": named, "lora_rank": 0, "lora_alpha": 1.0, "written": time.time()}
    with (
        whole_model(described) as (model, world),
        bar(len(weights.export_specs(model))) as advance,
        beside(target) as work,
    ):
        write_weights(work / ACTOR, model, world, source, about=about, advance=advance)
        write_seal(work, seal_of([work / ACTOR / SEAL], work), about)
    return target


def _counted(items: Iterable[T], advance: Callable[[], None]) -> Iterator[T]:
    for item in items:
        yield item
        advance()
