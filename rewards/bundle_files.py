"""Published rewards on disk: a folder by hash, which scoring processes import from without asking any server.

Neighbours: `published` brings bundles here, `registry` loads them. Invariants: a folder is written whole, then named; it is
compared with its hash whenever it is read, sources and data files included, so that a changed file is never run.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rewards.bundle import Bundle, decode_bundle
from rewards.errors import RewardError

if TYPE_CHECKING:
    from rewards.registry import ResolvedTerm

BUNDLE_FILE = "bundle.json"


@dataclass(frozen=True, slots=True)
class BundleCopy:
    """A bundle on its way to another machine. file: its bundle file there; hash, data: as it was published."""

    file: str
    hash: str
    data: bytes

    def restore(self) -> None:
        """Writes it unless it is there. Raises RewardError."""
        materialise(decode_bundle(self.data, self.hash, self.file), Path(self.file).parent.parent)


def copy_of(term: ResolvedTerm) -> BundleCopy | None:
    """What a resolved term runs, None when that is installed or is a server. Raises RewardError."""
    if not term.published or term.endpoint:
        return None
    bundle = read_bundle(Path(term.file), term.published)
    return BundleCopy(term.file, term.published, bundle.encode())


def materialise(bundle: Bundle, folder: Path) -> Path:
    """Writes the bundle to `folder`/<hex of its hash> unless it is there; returns its bundle file. Raises RewardError."""
    target = folder / bundle.hash.removeprefix("sha256:")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if target.exists() and _is_whole(bundle, target):
            return target / BUNDLE_FILE
        partial = Path(tempfile.mkdtemp(dir=folder, prefix=f".{target.name[:12]}."))
        try:
            _write(bundle, partial)
            _name(bundle, partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise RewardError(f"the published reward {bundle.name!r} can't be written to {target}: {error}") from error
    return target / BUNDLE_FILE


def read_bundle(path: Path, expected: str) -> Bundle:
    """The bundle of a folder, every file in it compared. Raises RewardError for another hash or a changed file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RewardError(f"the published reward {expected} can't be read from {path}: {error}") from error
    bundle = decode_bundle(data, expected, str(path))
    for name, content in bundle.files().items():
        place = path.parent / name
        try:
            same = place.read_bytes() == content
        except OSError as error:
            raise RewardError(f"{place} of the published reward {bundle.name!r} can't be read: {error}") from error
        if not same:
            raise RewardError(f"{place} of the published reward {bundle.name!r} was changed; delete the folder")
    return bundle


def _is_whole(bundle: Bundle, target: Path) -> bool:
    try:
        read_bundle(target / BUNDLE_FILE, bundle.hash)
    except RewardError:
        return False
    return True


def _write(bundle: Bundle, partial: Path) -> None:
    files = bundle.files() | {BUNDLE_FILE: bundle.encode()}
    for name, content in files.items():
        place = partial / name
        if not place.resolve().is_relative_to(partial.resolve()):
            raise RewardError(f"the published reward {bundle.name!r} wants to write {name!r}, outside its folder")
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    partial.chmod(0o755)


def _name(bundle: Bundle, partial: Path, target: Path) -> None:
    """Another process may have been faster; a folder that is not whole makes room."""
    for _ in range(3):
        try:
            partial.rename(target)
            return
        except OSError:
            if _is_whole(bundle, target):
                return
            shutil.rmtree(target, ignore_errors=True)
    raise OSError(f"{target} keeps being written by somebody else")
