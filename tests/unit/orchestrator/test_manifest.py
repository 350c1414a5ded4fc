"""When a finished stage still holds, and why it no longer does."""

import dataclasses
from pathlib import Path

import pytest

from orchestrator.manifest import Manifest, digest_of, file_digest, inputs_of, mismatch, read_manifest, weights_digest

SETTINGS = {"pipeline.distil": {"samples": 8}, "rollout.temperature": 1.0}
INPUTS = {"train": "a" * 64, "model": "b" * 64}


@pytest.fixture
def made(tmp_path: Path) -> tuple[Manifest, Path]:
    (tmp_path / "kept.jsonl").write_text("{}\n")
    manifest = Manifest(
        stage="t1.distil",
        kind="distil",
        iteration=1,
        settings_sha256=digest_of(SETTINGS),
        settings=SETTINGS,
        inputs=INPUTS,
        seed=11,
        started_from="cold_start.sft",
        model="cold_start.sft",
        weights_version=3,
        counts={"kept": 1},
        files={"kept.jsonl": file_digest(tmp_path / "kept.jsonl")},
        result={"kept": 1},
        mlflow_run="r1",
        seconds=1.5,
    )
    manifest.write(tmp_path)
    return manifest, tmp_path


def why(made: tuple[Manifest, Path], **changes: object) -> str:
    manifest, folder = made
    asked = {"settings": SETTINGS, "inputs": INPUTS, "seed": 11} | changes
    return mismatch(manifest, folder, **asked)  # type: ignore[arg-type]


def test_what_was_written_is_read_back(made):
    assert read_manifest(made[1]) == made[0]
    assert read_manifest(made[1] / "nothing") is None


def test_an_untouched_stage_holds(made):
    assert why(made) == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"inputs": INPUTS | {"train": "c" * 64}}, "its input train has changed"),
        ({"inputs": {"train": "a" * 64}}, "made from model"),
        ({"inputs": INPUTS | {"t1.perceive": "d"}}, "its input t1.perceive has changed"),
        ({"seed": 12}, "made with seed 11"),
        ({"settings": SETTINGS | {"pipeline.distil": {"samples": 4}}}, "settings have changed (pipeline.distil)"),
    ],
)
def test_a_change_is_named(made, changes, words):
    assert words in why(made, **changes)


def test_settings_count_only_when_they_are_asked_about(made):
    assert why(made, settings=None) == ""


def test_a_file_that_is_gone_or_changed_is_named(made):
    (made[1] / "kept.jsonl").write_text("{}\n{}\n")
    assert why(made) == "its file kept.jsonl has changed"
    (made[1] / "kept.jsonl").unlink()
    assert why(made) == "its file kept.jsonl is gone"


def test_the_digest_is_of_what_was_made_not_of_when(made):
    manifest, _ = made
    assert dataclasses.replace(manifest, seconds=9.0, mlflow_run="r2").digest == manifest.digest
    assert dataclasses.replace(manifest, counts={"kept": 2}).digest != manifest.digest
    assert dataclasses.replace(manifest, weights_version=4).digest != manifest.digest


def test_a_stage_depends_on_its_model_and_what_it_needs_not_on_other_uses_of_the_model(made):
    trained = dataclasses.replace(made[0], stage="t1.refine", model="t1.refine")
    evaluated = dataclasses.replace(made[0], stage="evaluate.t1", model="t1.refine")
    known = {"t1.refine": trained, "evaluate.t1": evaluated, "t1.select": made[0]}

    def inputs(**changed: Manifest) -> dict[str, str]:
        return inputs_of(["t1.select"], {"train": "d"}, "t1.refine", "base", known | changed)

    again = dataclasses.replace(evaluated, settings_sha256="other")
    assert inputs() == inputs(**{"evaluate.t1": again})
    assert inputs()["model"] != inputs(**{"t1.refine": dataclasses.replace(trained, settings_sha256="other")})["model"]
    assert inputs()["t1.select"] != inputs(**{"t1.select": dataclasses.replace(made[0], counts={})})["t1.select"]
    assert inputs_of([], {}, "", "base", known) == {"model": "base"}


def test_the_digest_of_a_model_folder_sees_every_file(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(bytes(3 << 20))
    (tmp_path / "config.json").write_text("{}")
    before = weights_digest(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    changed = weights_digest(tmp_path)
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    assert len({before, changed, weights_digest(tmp_path)}) == 3
