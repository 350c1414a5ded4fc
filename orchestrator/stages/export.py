"""Weights as a Hugging Face folder, registered in MLflow with their lineage.

Neighbours: the trainer writes the folder; `curve` exports the model of every point, `conductor` the last one. Invariant: a registered
version names the stage, weights version, data and settings it came from.
"""

from __future__ import annotations

from typing import Any

from orchestrator.stages.context import StageContext


def run(context: StageContext) -> dict[str, Any]:
    return {"path": export_model(context, "model")}


def export_model(context: StageContext, folder: str) -> str:
    """Export what the trainer holds into RUN/`folder` and register it; returns the folder."""
    parts = context.parts
    target = parts.directory.root / folder
    parts.trainer.export(str(target))
    tags = {
        "mgrd.base": str(parts.model_path),
        "mgrd.stage": context.stage.name,
        "mgrd.iteration": context.stage.iteration,
        "mgrd.weights_version": context.version,
        "mgrd.checkpoint": context.model,
        "mgrd.train_digest": context.questions.digests["train"],
    }
    parts.tracker.register_model(str(target), f"mgrd-{parts.config.run.name}", tags)
    return str(target)
