"""What a finished stage leaves behind: inputs, settings, seeds, counts, files; and whether it still holds.

Neighbours: `conductor` writes one a stage and asks `matches` on resume. Invariants: written whole, then named, after everything it
names; digests chain, so a stage whose inputs were made anew no longer matches.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.rundir import write_atomic

MANIFEST_FILE = "manifest.json"


@dataclass(frozen=True, slots=True)
class Manifest:
    """inputs: digests by name (data files, results of other stages, the model it started from); model: name of the checkpoint it
    ends with; weights_version: that engines and trainer hold at its end; counts: of questions, samples, chains at every filter;
    files: SHA-256 by path relative to the stage's folder; result: what later stages and the report read."""

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


def digest_of(value: Any) -> str:
    """SHA-256 of plain values in canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
