"""What a finished stage leaves behind: inputs, settings, seeds, counts, files; and whether it still holds.

Neighbours: `conductor` writes one a stage and asks for a `mismatch` on resume. Invariants: written whole, then named, after everything it
names; digests chain, so a stage whose inputs were made anew no longer matches.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.rundir import write_atomic

MANIFEST_FILE = "manifest.json"
EDGE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Manifest:
    """inputs: digests by name (data files, results of other stages, the model it started from); model: name of the checkpoint it
    ends with; weights_version: that engines and trainer hold at its end; counts: of questions, samples, chains at every filter;
    files: SHA-256 by path relative to the stage's folder; result: what later stages and the report read; settings_before: of
    earlier attempts that this one went on from, where they were other ones."""

    stage: str
    kind: str
    iteration: int
    settings_sha256: str
    settings: dict[str, Any]
    inputs: dict[str, str]
    seed: int
    started_from: str
    model: str
    weights_version: int
    counts: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    settings_before: list[dict[str, Any]] = field(default_factory=list)
    mlflow_run: str = ""
    seconds: float = 0.0

    @property
    def digest(self) -> str:
        """Of what the stage made, in whatever time: input of later stages."""
        made = dataclasses.replace(self, seconds=0.0, mlflow_run="", settings={})
        return digest_of(dataclasses.asdict(made))

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / MANIFEST_FILE, self.to_json())


def read_manifest(folder: Path) -> Manifest | None:
    """None when the stage has not ended."""
    path = folder / MANIFEST_FILE
    if not path.is_file():
        return None
    return Manifest(**json.loads(path.read_text(encoding="utf-8")))


def mismatch(
    manifest: Manifest, folder: Path, *, settings: Mapping[str, Any] | None, inputs: Mapping[str, str], seed: int
) -> str:
    """Why the stage no longer holds, "" when it does; settings None: whatever they are now, it counts."""
    for name, digest in inputs.items():
        if manifest.inputs.get(name) != digest:
            return f"its input {name} has changed"
    if gone := set(manifest.inputs) - set(inputs):
        return f"it was made from {', '.join(sorted(gone))}, which is no input any more"
    if manifest.seed != seed:
        return f"it was made with seed {manifest.seed}"
    if settings is not None and manifest.settings_sha256 != digest_of(settings):
        changed = [key for key in settings if digest_of(manifest.settings.get(key)) != digest_of(settings[key])]
        return f"its settings have changed ({', '.join(changed)})"
    for name, digest in manifest.files.items():
        path = folder / name
        if not path.is_file():
            return f"its file {name} is gone"
        if file_digest(path) != digest:
            return f"its file {name} has changed"
    return ""


def inputs_of(
    needs: Sequence[str], data: Mapping[str, str], model: str, base: str, manifests: Mapping[str, Manifest]
) -> dict[str, str]:
    """Digests of all that a stage reads: data files, the model it starts from, results it needs.

    model: name of the stage that trained it, "" for the base, whose digest is `base`. What other stages did with the same model
    (an evaluation, a selection) does not matter.
    """
    made = manifests.get(model)
    return {**data, "model": made.digest if made else base, **{name: manifests[name].digest for name in needs}}


def digest_of(value: Any) -> str:
    """SHA-256 of plain values in canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def weights_digest(folder: Path) -> str:
    """Of a model's folder without reading all of a large one: names, sizes, first and last megabyte of every file."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(EDGE_BYTES))
            file.seek(max(0, size - EDGE_BYTES))
            digest.update(file.read(EDGE_BYTES))
    return digest.hexdigest()
