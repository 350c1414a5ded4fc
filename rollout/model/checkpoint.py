"""Model folders on disk: config.json, tokenizer files, safetensors under the public weight names.

Neighbours: `resolve` makes such folders, `reference`, the engine and the trainer read them, `actor` exports them.
Invariants: a folder is complete or absent (the weights are written beside and renamed last); tied models
hold no `lm_head.weight`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rollout.model.config import StepAudio2Config

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


class CheckpointError(RuntimeError):
    """A model folder cannot be read or written."""


def weight_files(model_dir: str | Path) -> list[Path]:
    """Safetensors files of a folder: one, or the shards its index names. Raises CheckpointError when one is missing."""
    folder = Path(model_dir)
    index = folder / INDEX
    sharded = index.is_file()
    names = sorted(set(json.loads(index.read_text())["weight_map"].values())) if sharded else [WEIGHTS]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"model folder {folder} lacks {', '.join(missing)}; give a complete Hugging Face folder")
    return [folder / name for name in names]


def iterate_weights(model_dir: str | Path, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of every weight whose name starts with `prefix`, on the CPU, dtype as stored. Raises CheckpointError."""
    for path in weight_files(model_dir):
        with _reading(path) as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                if name.startswith(prefix):
                    yield name, file.get_tensor(name)


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"cannot read weights {path}: {error}; the file is damaged or no safetensors") from error


def _names(path: Path) -> list[str]:
    with _reading(path) as file:
        return list(file.keys())


class FolderWeights(Mapping[str, Tensor]):
    """The weights of a folder by checkpoint name, each read when it is asked for and not kept. Raises CheckpointError."""

    def __init__(self, model_dir: str | Path) -> None:
        self._files = {name: path for path in weight_files(model_dir) for name in _names(path)}

    def __getitem__(self, name: str) -> Tensor:
        with _reading(self._files[name]) as file:
            return file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def load_weights(model_dir: str | Path, prefix: str = "") -> dict[str, Tensor]:
    """Weights of a folder by checkpoint name, e.g. prefix="adapter." for the adaptor alone."""
    return dict(iterate_weights(model_dir, prefix))


def save_config(model_dir: str | Path, config: StepAudio2Config) -> Path:
    """Writes config and generation config into a folder, made when it is not there."""
    folder = Path(model_dir)
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    generation = {"eos_token_id": config.text_config.eos_token_id, "pad_token_id": config.text_config.pad_token_id}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=1) + "\n")
    return folder


def copy_companions(source: str | Path, target: str | Path) -> None:
    """What a model folder holds beside weights (tokenizer, template, licence), where `target` has no file of that name."""
    for path in Path(source).iterdir():
        if path.is_file() and ".safetensors" not in path.name and not (Path(target) / path.name).exists():
            shutil.copyfile(path, Path(target) / path.name)


def save_checkpoint(
    model_dir: str | Path, config: StepAudio2Config, weights: Mapping[str, Tensor], tokenizer: Any = None
) -> Path:
    """Writes config, generation config, tokenizer (when given) and weights; the weights appear last, in one rename."""
    folder = save_config(model_dir, config)
    if tokenizer is not None:
        tokenizer.save_pretrained(str(folder))
    kept = {
        name: tensor.detach().to("cpu").contiguous()
        for name, tensor in weights.items()
        if not (name == "lm_head.weight" and config.text_config.tie_word_embeddings)
    }
    part = folder / f".{WEIGHTS}.{os.getpid()}"
    save_file(kept, part, metadata={"format": "pt"})
    os.replace(part, folder / WEIGHTS)
    return folder
