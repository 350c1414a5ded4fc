"""Entries of the base's manifest: digests of files and code, scores against chance; and the check of a shipped folder.

Neighbours: `build` writes the manifest, tests check the shipped one. Invariants: pure but for reading files; digests are
blake3, hexadecimal.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from blake3 import blake3

from orchestrator.base_model.scoring import Score
from orchestrator.datasets.acoustic_qa.questions import TASKS


def file_digest(path: Path) -> str:
    return blake3(path.read_bytes()).hexdigest()


def code_digest() -> str:
    """Digest of this package's modules and of the scene, question and chain writers."""
    here = Path(__file__).parent
    pure = here.parent / "datasets" / "acoustic_qa"
    digest = blake3()
    for path in [*sorted(here.glob("*.py")), *(pure / f"{name}.py" for name in ("scenes", "questions", "chains"))]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def score_entry(score: Score, margin: float) -> dict[str, Any]:
    """A score as JSON; tasks_above counts task types at least `margin` over chance."""
    by_task = {
        task: {
            "accuracy": round(accuracy, 4),
            "stderr": round((accuracy * (1 - accuracy) / n) ** 0.5, 4),
            "chance": round(TASKS[task].chance, 4),
            "n": n,
        }
        for task, (accuracy, n) in score.by_task.items()
    }
    return {
        "accuracy": round(score.accuracy, 4),
        "stderr": round(score.stderr, 4),
        "n": score.n,
        "tasks_above": sum(entry["accuracy"] >= entry["chance"] + margin for entry in by_task.values()),
        "margin": margin,
        "true_perceptions": round(score.true_perceptions, 4),
        "formed": round(score.formed, 4),
        "by_task": by_task,
    }


def differences(folder: Path) -> list[str]:
    """What in a folder does not match its manifest, a line each; empty when all does."""
    manifest = json.loads((folder / "manifest.json").read_text())
    found = []
    for name, entry in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            found.append(f"{name} is missing")
        elif file_digest(path) != entry["blake3"]:
            found.append(f"{name} has other content than the manifest says")
    return found
