"""Weights and data: whether what runs need is on this machine, without fetching any of it.

Neighbours: `rollout.model` resolves weights when a run starts, `orchestrator.paths` says where data lies. Invariant: it looks, and
never downloads.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from orchestrator import paths
from orchestrator.config.schema import ExperimentConfig
from orchestrator.doctor.findings import Finding, fail, ok, warn
from rollout.model.sources import (
    BASE_DIR,
    PRESET_REPOS,
    WHISPER_PATH_VARIABLE,
    WHISPER_TINY_EN_CHECKSUM,
    WHISPER_TINY_EN_REPO,
)

WEIGHTS = (".safetensors", ".bin")


def model(preset: str, places: Mapping[str, bool]) -> Finding:
    """places: where weights may come from, in order, and whether they are there."""
    name = f"model {preset}"
    for place, there in places.items():
        if there:
            return ok(name, f"in {place}")
    return warn(
        name,
        "not on this machine",
        f"fetch it before the first run: mgrd model resolve --preset {preset}; or give model.path",
    )


def model_folder(key: str, path: str, files: Sequence[str]) -> Finding:
    """Of a configuration that names a folder. files: names in it."""
    missing = [name for name in ("config.json", "tokenizer_config.json") if name not in files]
    if not any(name.endswith(WEIGHTS) for name in files):
        missing.append("weights")
    if missing:
        return fail(key, f"{path} lacks {', '.join(missing)}", "give a complete Hugging Face folder, or a hub id")
    return ok(key, path)


def data(train: Path, held_out: Path, there: tuple[bool, bool], builder: str) -> Finding:
    """Of the configuration that runs have without any override."""
    if all(there):
        return ok("data", str(train.parent))
    absent = train if not there[0] else held_out
    if builder:
        return warn(
            "data", f"{absent} does not exist yet", f"the first run builds it; sooner: mgrd data build {builder}"
        )
    return fail("data", f"{absent} does not exist", "set data.train and data.held_out to files that do")


def roots(missing: Sequence[str], all_of_them: Sequence[str]) -> Finding:
    if missing:
        return warn("allowed folders", f"{', '.join(missing)} can't be read", "create them, or correct allowed_roots")
    return ok("allowed folders", ", ".join(all_of_them) or "as mgrd up sets them")


def gather_presets() -> dict[str, dict[str, bool]]:
    """Of every preset with published weights."""
    encoders = paths.cache_dir() / "encoders"
    base = any(name.name.endswith(WEIGHTS) for name in BASE_DIR.iterdir()) if BASE_DIR.is_dir() else False
    named = os.environ.get(WHISPER_PATH_VARIABLE, "")
    tiny = {
        f"{named} ({WHISPER_PATH_VARIABLE})": base and bool(named) and Path(named).exists(),
        str(encoders): base and (encoders / f"whisper-tiny.en-{WHISPER_TINY_EN_CHECKSUM[:16]}.safetensors").is_file(),
        "the hub's cache": base and in_hub_cache(WHISPER_TINY_EN_REPO),
    }
    return {"tiny": tiny} | {preset: {"the hub's cache": in_hub_cache(repo)} for preset, repo in PRESET_REPOS.items()}


def in_hub_cache(repo: str) -> bool:
    try:
        folder = Path(snapshot_download(repo, local_files_only=True))
    except (LocalEntryNotFoundError, OSError):
        return False
    return any(path.name.endswith(WEIGHTS) for path in folder.iterdir())


def gather_data() -> Finding:
    config = ExperimentConfig()
    train, held_out = paths.train_file(config), paths.held_out_file(config)
    return data(train, held_out, (train.is_file(), held_out.is_file()), config.data.build)
