"""A folder is complete when its seal says so: every file with size and digest in one `manifest.json`, written last.

Neighbours: `actor.megatron.checkpoint` seals what the ranks have written, the orchestrator seals the whole checkpoint (whose list
names the trainer's seal, so that one digest stands for everything below it).
Invariants: no file is trusted by name alone: presence and size are always looked at, digests unless the caller says otherwise;
what is torn, missing or changed is refused by its name before anybody has read it; standard library and blake3 only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from blake3 import blake3

SEAL = "manifest.json"
FORMAT = 2  # of what a seal covers; 1 had no seal


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or read; the message names the file or folder."""


@dataclass(frozen=True, slots=True)
class FileSeal:
    """size: bytes; digest: blake3 of the content, hexadecimal."""

    size: int
    digest: str

    @classmethod
    def of(cls, path: Path) -> FileSeal:
        """Reads the whole file (about 4 GB/s a core when it is in the page cache). Raises OSError."""
        hasher = blake3()
        size = path.stat().st_size
        if size:
            hasher.update_mmap(path)
        return cls(size, hasher.hexdigest())


@dataclass(frozen=True, slots=True)
class Seal:
    """What a complete folder holds.

    files: by path below the folder; about: plain values that its writer wants known without reading the files (stage, layout,
    model folder, version of the weights, policy update, metric).
    """

    files: Mapping[str, FileSeal]
    about: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())


def write_seal(folder: Path, files: Mapping[str, FileSeal], about: Mapping[str, Any]) -> Seal:
    """Seal `folder`: durable and whole when this returns. Raises OSError."""
    seal = Seal(dict(sorted(files.items())), dict(about))
    text = json.dumps(asdict(seal), indent=1)
    temporary = folder / f".{SEAL}.tmp"
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, folder / SEAL)
    sync_folder(folder)
    return seal


def sync_folder(folder: Path) -> None:
    """Names in `folder` survive a power cut when this returns."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def parse_seal(text: str, where: str) -> Seal:
    """The seal in `text`. Raises CheckpointError, naming `where` it was found, when it is none."""
    try:
        data = json.loads(text)
        files = {name: FileSeal(int(file["size"]), str(file["digest"])) for name, file in data["files"].items()}
        about, written = dict(data["about"]), int(data["format"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{where} is damaged ({type(error).__name__}: {error}); use another checkpoint"
        ) from error
    if written != FORMAT:
        raise CheckpointError(f"{where} has format {written}, this version of mgrd reads {FORMAT}")
    outside = [name for name in files if Path(name).is_absolute() or ".." in Path(name).parts]
    if outside:
        raise CheckpointError(f"{where} names {outside[0]}, which is outside its folder; do not trust this checkpoint")
    return Seal(files, about)


def read_seal(folder: Path) -> Seal:
    """Raises CheckpointError when there is none: the folder was never completed, or is no checkpoint."""
    path = folder / SEAL
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{folder} is no complete checkpoint: {SEAL} cannot be read ({error}); use an earlier one"
        ) from error
    return parse_seal(text, str(path))


def sealed_files(folder: Path) -> dict[Path, FileSeal]:
    """Every file below `folder`, through the seals of folders in it, with what it has to be. Raises CheckpointError for a missing
    or damaged seal; a seal inside is compared with what the outer one says of it before it is believed."""
    found: dict[Path, FileSeal] = {}
    for name, wanted in read_seal(folder).files.items():
        path = folder / name
        if path.name == SEAL:
            _compare(path, wanted, digest=True)
            found |= sealed_files(path.parent)
        found[path] = wanted
    return found


def check(folder: Path, *, digests: bool = True, share: tuple[int, int] = (0, 1), below: str = "") -> Seal:
    """The seal of a folder whose files are all there with their sizes and (digests) contents.

    share: (index, of how many): readers that check together look at the contents of every file once between them; presence and
    sizes are looked at by each. below: what lies in this folder of it alone, with the seals around it; all other files but seals
    may be absent. Raises CheckpointError that names the first file that is missing, torn or changed.
    """
    files = {path: wanted for path, wanted in sealed_files(folder).items() if path.is_relative_to(folder / below)}
    if below and folder / below / SEAL not in files:
        raise CheckpointError(f"{folder} has no {below}: its seal names no {below}/{SEAL}")
    for number, (path, wanted) in enumerate(sorted(files.items())):
        _compare(path, wanted, digest=digests and number % share[1] == share[0])
    return read_seal(folder)


def seal_of(paths: Sequence[Path], folder: Path) -> dict[str, FileSeal]:
    """Files by their name below `folder`."""
    return {path.relative_to(folder).as_posix(): FileSeal.of(path) for path in paths}


def _compare(path: Path, wanted: FileSeal, *, digest: bool) -> None:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: the checkpoint is not whole; use an earlier one") from None
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}); check the disk, or use an earlier checkpoint"
        ) from error
    if size != wanted.size:
        raise CheckpointError(f"{path} is torn: {size} bytes instead of {wanted.size}; use an earlier checkpoint")
    if not digest:
        return
    try:
        found = FileSeal.of(path)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}); check the disk, or use an earlier checkpoint"
        ) from error
    if found != wanted:
        raise CheckpointError(f"{path} has changed since it was written; use an earlier checkpoint")
