"""The whole recipe leaves a curve, manifests that chain, chains with their provenance, and a lineage in MLflow."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from conftest import MicroRuns, processes_of, report, updates

from orchestrator.config.compose import from_yaml
from orchestrator.manifest import Manifest, read_manifest
from orchestrator.pipeline import stages_of

pytestmark = pytest.mark.slow


def manifests(run_dir: Path) -> dict[str, Manifest]:
    stages = stages_of(from_yaml(run_dir / "config.yaml"))
    found = {stage.name: read_manifest(run_dir / "stages" / stage.name) for stage in stages}
    assert all(found.values()), [name for name, manifest in found.items() if manifest is None]
    return found  # type: ignore[return-value]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_curve_has_a_point_for_every_part(whole_recipe: Path):
    found = report(whole_recipe)
    assert [point["stage"] for point in found["curve"]] == ["cold_start", "t1", "align"]
    for point in found["curve"]:
        contribution = ("audio_contribution", "audio_contribution_corrected")
        for key in ("sampled", "stderr", "greedy", *contribution, "think_tokens", "self_cognition_error"):
            assert isinstance(point[key], float), key
        assert "true_perceptions" in point
    assert found["seed"] == 11 and found["seconds"] > 0
    assert {"curve.json", "curve.md", "curve.png"} <= {path.name for path in (whole_recipe / "curve").iterdir()}


def test_every_stage_has_a_manifest_and_they_chain(whole_recipe: Path):
    found = manifests(whole_recipe)
    model = ""
    for name, manifest in found.items():
        assert manifest.started_from == model, name
        assert manifest.settings_sha256 and manifest.inputs["train"] and manifest.mlflow_run
        for needed, digest in manifest.inputs.items():
            if needed in found:
                assert digest == found[needed].digest
        model = manifest.model
        if model:
            assert (whole_recipe / "checkpoints" / model).is_dir()
    assert found["align"].weights_version == max(m.weights_version for m in found.values())


def test_numbers_of_policy_updates_go_on_through_the_stages(whole_recipe: Path):
    assert [record["update"] for record in updates(whole_recipe)] == [1, 2, 3]


def test_kept_chains_carry_their_provenance_and_the_funnel_adds_up(whole_recipe: Path):
    manifest = manifests(whole_recipe)["t1.distil"]
    chains = lines(whole_recipe / "stages" / "t1.distil" / "kept.jsonl")
    assert len(chains) == manifest.counts["kept"] > 0
    assert sum(n for name, n in manifest.counts.items() if name != "sampled") == manifest.counts["sampled"]
    for chain in chains:
        assert chain["model"] == manifest.started_from and chain["iteration"] == 1
        assert chain["weights_version"] == manifest.weights_version
        assert chain["components"]["self_cognition"] == 1.0
        assert chain["trajectory_id"].startswith("t1.distil/")


def test_preference_pairs_say_which_model_sampled_either_side(whole_recipe: Path):
    manifest = manifests(whole_recipe)["align"]
    pairs = lines(whole_recipe / "stages" / "align" / "pairs.jsonl")
    assert len(pairs) == manifest.counts["pairs"] > 0
    assert sum(n for name, n in manifest.counts.items() if name.startswith("pairs_from/")) == len(pairs)
    assert manifest.counts["false_or_empty"] > 0 and manifest.counts["other_prompt"] == 0
    for pair in pairs:
        assert pair["chosen"]["model"] == manifest.started_from
        assert f"pairs_from/{pair['rejected']['model']}" in manifest.counts


def test_lineage_can_be_walked_in_mlflow(whole_recipe: Path, recipe_runs: MicroRuns):
    store = sqlite3.connect(recipe_runs.root / "mlflow" / "mlflow.db")
    found = manifests(whole_recipe)
    tags = dict(store.execute("select key, value from tags where run_uuid = ?", (found["t1.refine"].mlflow_run,)))
    assert tags["mgrd.from.t1.distil"] == found["t1.distil"].mlflow_run
    assert tags["mgrd.input.t1.distil"] == found["t1.distil"].digest
    assert found["t1.distil"].mlflow_run in tags["mlflow.note.content"]
    inputs = store.execute(
        "select count(*) from inputs where destination_id = ?", (found["t1.distil"].mlflow_run,)
    ).fetchone()
    assert inputs[0] == 1
    versions = store.execute("select count(*) from model_versions where name = 'mgrd-mgrd_micro'").fetchone()
    assert versions[0] >= 4  # three points of the curve and the final model


def test_the_final_model_was_judged_by_the_guardrails(whole_recipe: Path, recipe_runs: MicroRuns):
    outcome = report(whole_recipe)["promotion"]
    assert outcome["model"] == "mgrd-mgrd_micro" and isinstance(outcome["promoted"], bool)
    assert outcome["promoted"] or outcome["reasons"]
    store = sqlite3.connect(recipe_runs.root / "mlflow" / "mlflow.db")
    query = "select version from registered_model_aliases where name = ? and alias = 'champion'"
    champion = store.execute(query, (outcome["model"],)).fetchone()
    # other runs of the recipe share this registry
    later = int(champion[0]) - int(outcome["version"]) if champion else -1
    assert later >= 0 if outcome["promoted"] else later != 0


def test_no_process_is_left(whole_recipe: Path):
    assert processes_of(whole_recipe) == []
