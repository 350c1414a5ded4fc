"""Where a stage came from and what it made, as MLflow tags and a description with links.

Neighbours: `conductor` calls it when a stage ends; `manifest` holds the facts. Invariant: everything said here is in the manifest.
"""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.manifest import Manifest
from orchestrator.tracking import RunTracker

SHORT = 12  # hex digits of a digest that people read


def tags_of(manifest: Manifest, earlier: Mapping[str, Manifest]) -> dict[str, str]:
    """`mgrd.stage`, `mgrd.iteration`, `mgrd.model`, digests of what it read and wrote, runs of the stages it came from."""
    tags = {
        "mgrd.stage": manifest.stage,
        "mgrd.kind": manifest.kind,
        "mgrd.iteration": str(manifest.iteration),
        "mgrd.started_from": manifest.started_from or "base",
        "mgrd.model": manifest.model or "base",
        "mgrd.weights_version": str(manifest.weights_version),
        "mgrd.digest": manifest.digest,
        "mgrd.settings_sha256": manifest.settings_sha256,
    }
    tags |= {f"mgrd.input.{name}": digest for name, digest in manifest.inputs.items()}
    tags |= {f"mgrd.file.{name}": digest for name, digest in manifest.files.items()}
    for other in _sources(manifest, earlier):
        if other.mlflow_run:
            tags[f"mgrd.from.{other.stage}"] = other.mlflow_run
    return tags


def describe(run: RunTracker, manifest: Manifest, earlier: Mapping[str, Manifest]) -> None:
    """Tags, and a description in Markdown that MLflow shows on the run's page, with links to the runs it came from."""
    lines = [f"**{manifest.stage}**, from `{manifest.started_from or 'base'}` to `{manifest.model or 'base'}`"]
    for other in _sources(manifest, earlier):
        if other.mlflow_run:
            lines.append(f"- from [{other.stage}](#/runs/{other.mlflow_run}) `{other.digest[:SHORT]}`")
    lines += [f"- input {name} `{digest[:SHORT]}`" for name, digest in manifest.inputs.items() if name not in earlier]
    lines += [f"- wrote {name} `{digest[:SHORT]}`" for name, digest in manifest.files.items()]
    lines += [f"- {name}: {count}" for name, count in manifest.counts.items()]
    run.tags(tags_of(manifest, earlier) | {"mlflow.note.content": "\n".join(lines)})
    run.text("manifest.json", manifest.to_json())


def _sources(manifest: Manifest, earlier: Mapping[str, Manifest]) -> list[Manifest]:
    """Stages whose results it read, and the one that made the weights it started from."""
    named = [earlier[name] for name in manifest.inputs if name in earlier]
    made = next(
        (m for m in reversed(list(earlier.values())) if m.model == manifest.started_from and m.model != m.started_from),
        None,
    )
    return named + ([made] if made is not None and made not in named else [])
