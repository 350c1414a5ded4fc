"""Killed by SIGKILL in every kind of stage, and resumed each time, the recipe ends with the numbers of one that nothing disturbed.

A policy update that dies later than here, with its weights changed and its checkpoint written but not named: `test_interrupted_run`.
"""

import json

import pytest
from conftest import MicroRuns, eventually, processes_of, report, updates
from test_whole_recipe import lines, manifests

pytestmark = [pytest.mark.slow, pytest.mark.chaos]
CLEAN_UP_LIMIT_S = 20.0
KILLS = (
    "chunk:cold_start.chains:0",
    "cold_start.sft:step:3",
    "chunk:cold_start.select:0",
    "update:1:after_rollout",
    "chunk:evaluate.cold_start/greedy:0",
    "chunk:t1.perceive/noise:0",
    "stage:t1.distil:done",  # its manifest is written, the run's state does not say so yet
    "t1.refine:step:1",
    "align:step:3",
)


def test_a_recipe_killed_in_every_stage_ends_like_an_undisturbed_one(recipe_runs: MicroRuns, whole_recipe):
    directory = recipe_runs.root / "killed"
    said: dict[str, str] = {}
    for number, point in enumerate(KILLS):
        code, output = recipe_runs.run(directory, *(["run.resume=true"] if number else []), chaos=point)
        said[point] = " ".join(output.split())
        assert code == -9, f"{point} was not reached: {output}"
        assert eventually(lambda: processes_of(directory) == [], CLEAN_UP_LIMIT_S)
        assert not (directory / "report.json").exists()
    assert "t1.distil: done before, not run again" in said["t1.refine:step:1"]
    code, output = recipe_runs.run(directory, "run.resume=true")
    assert code == 0, output

    assert updates(directory) == updates(whole_recipe)
    assert report(directory)["curve"] == report(whole_recipe)["curve"]
    for name in ("t1.distil/kept.jsonl", "align/pairs.jsonl"):
        assert lines(directory / "stages" / name) == lines(whole_recipe / "stages" / name)
    disturbed, calm = manifests(directory), manifests(whole_recipe)
    for name, manifest in disturbed.items():
        assert (manifest.counts, manifest.weights_version) == (calm[name].counts, calm[name].weights_version), name
    assert json.loads((directory / "state.json").read_text()).get("working") is None

    code, output = recipe_runs.run(directory, "run.resume=true", "run.redo=true", "pipeline.refine.lr=1e-4")
    text = " ".join(output.split())
    assert code == 0, output
    assert "t1.distil: done before, not run again" in text
    assert "t1.refine: run again, its settings have changed (pipeline.refine)" in text
    assert "t1.select: run again, its input model has changed" in text
    redone = manifests(directory)
    assert redone["t1.distil"] == disturbed["t1.distil"] and redone["t1.refine"] != disturbed["t1.refine"]
    assert [record["update"] for record in updates(directory)] == [1, 2, 3]
    assert updates(directory)[0] == updates(whole_recipe)[0] and updates(directory)[1] != updates(whole_recipe)[1]
