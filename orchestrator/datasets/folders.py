"""The folder of a built data set: appears whole or not at all, and replaces only an earlier build of the same data set.

Neighbours: the builders (`acoustic_qa`, `text_reasoning`, `conversations`). Invariant: whatever is in the folder came
from one build; its manifest names builder, seed and the digest of every file; a folder named by `generator_digest` holds what the
present generator writes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from orchestrator.datasets.schema import DataError

MANIFEST = "manifest.json"


@contextmanager
def built_folder(out_dir: str | Path, name: str) -> Iterator[Path]:
    """A folder to write into; at the end of the block it takes the place of `out_dir`.

    Raises DataError when `out_dir` holds anything but a build of the data set `name`, or can't be written.
    """
    out_dir = Path(out_dir).absolute()
    check_target(out_dir, name)
    try:
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out_dir.parent, prefix=f".{out_dir.name}-") as staging:
            folder = Path(staging) / "data"
            folder.mkdir()
            yield folder
            if out_dir.exists():
                shutil.rmtree(out_dir)
            folder.rename(out_dir)
    except OSError as error:
        raise DataError(
            f"cannot write the data set {name} to {out_dir}: {error}; choose a writable folder with space"
        ) from error


def write_manifest(folder: Path, name: str, seed: int, more: Mapping[str, Any]) -> None:
    """manifest.json with the digests of all files that are in the folder now. Raises OSError."""
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}
    manifest = {"name": name, "seed": seed, "files": files, **more}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def generator_digest(modules: Sequence[str]) -> str:
    """SHA-256 over the source of modules that decide what a generator writes; a package stands for all modules in it.

    Raises ValueError for a name that is no module with a source file.
    """
    digest = hashlib.sha256()
    for name in modules:
        spec = find_spec(name)
        if spec is None or not spec.origin:
            raise ValueError(f"{name} is no module with a source file")
        folders = spec.submodule_search_locations
        sources = (
            [file for folder in folders for file in sorted(Path(folder).rglob("*.py"))]
            if folders
            else [Path(spec.origin)]
        )
        for source in sources:
            digest.update(f"{name}/{source.name}\0".encode() + hashlib.sha256(source.read_bytes()).digest())
    return digest.hexdigest()


def check_target(out_dir: Path, name: str) -> None:
    """Raises DataError when replacing `out_dir` would destroy something that is not a build of the data set `name`."""
    if out_dir.exists() and not out_dir.is_dir():
        raise DataError(f"{out_dir} is a file; choose a folder for the data set")
    if not out_dir.exists() or not any(out_dir.iterdir()):
        return
    try:
        found = json.loads((out_dir / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or found.get("name") != name:
        raise DataError(f"{out_dir} holds other files and no {name} manifest; choose another folder or empty this one")
