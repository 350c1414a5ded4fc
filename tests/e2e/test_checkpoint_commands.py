"""What a real run has kept: listed, verified, exported from here and from its copies, served by an engine, and taken in again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import MicroRuns, updates
from engine_room import EngineRoom
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from orchestrator.cli import app
from orchestrator.config.compose import from_yaml
from rollout import special_ids
from rollout.model.reference import StepAudio2ForCausalLM

pytestmark = pytest.mark.slow


def mgrd(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def said(result: Result) -> str:
    """On both channels, without line breaks of the terminal."""
    return " ".join(result.output.split())


@pytest.fixture(scope="module")
def exported(whole_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The end of the run."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    result = mgrd("export", whole_run / "checkpoints" / "reinforce", "--to", folder)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def copy(whole_run: Path, tmp_path: Path) -> Path:
    """A run whose files may be damaged."""
    shutil.copytree(whole_run / "checkpoints", tmp_path / "run" / "checkpoints", symlinks=True)
    return tmp_path / "run"


def bits(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_the_newest_the_best_and_the_ends_of_stages_are_there_and_copied(
    whole_run: Path, micro_runs: MicroRuns
) -> None:
    result = mgrd("checkpoints", whole_run, "--check", "--json")
    assert result.exit_code == 0, result.output
    rows = {row["kept"]["name"]: row for row in json.loads(result.output)}
    assert {"sft", "reinforce", "update_000002", "update_000004"} <= rows.keys()
    assert all(row["copied"] and not row["problem"] and row["layout"] == "one rank" for row in rows.values())
    rewards = {f"update_{r['update']:06d}": r["metrics"]["reward/mean"] for r in updates(whole_run)}
    kept = {name: reward for name, reward in rewards.items() if name in rows}
    (best,) = (name for name, row in rows.items() if row["best"])
    assert kept[best] == max(kept.values())
    assert rows["update_000004"]["kept"]["metrics"]["reward/mean"] == rewards["update_000004"]
    assert from_yaml(whole_run / "config.yaml").run.checkpoint_url == micro_runs.store


def test_the_export_of_the_last_checkpoint_is_the_model_of_the_run(whole_run: Path, exported: Path) -> None:
    assert bits(exported) == bits(whole_run / "model")
    assert {path.name for path in exported.iterdir()} == {path.name for path in (whole_run / "model").iterdir()}


def test_a_run_and_its_copies_elsewhere_export_the_same(
    whole_run: Path, micro_runs: MicroRuns, exported: Path, tmp_path: Path
) -> None:
    copied = f"{micro_runs.store}/{whole_run.name}"
    assert mgrd("export", f"{copied}/reinforce", "--to", tmp_path / "copied").exit_code == 0
    assert bits(tmp_path / "copied") == bits(exported)
    of_run = mgrd("export", whole_run, "--to", tmp_path / "best")
    assert of_run.exit_code == 0 and (whole_run / "checkpoints" / "best").resolve().name in of_run.output
    newest = mgrd("export", copied, "--to", tmp_path / "newest")
    assert newest.exit_code == 0 and "update_000004" in newest.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "copied", "newest"]


@pytest.fixture(scope="module")
def served(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineRoom]:
    room = EngineRoom(tmp_path_factory.mktemp("served"), exported)
    yield room
    room.close()


def test_an_engine_serves_the_exported_folder_as_the_reference_computes_it(served: EngineRoom) -> None:
    """vLLM loads the folder by itself: each of its greedy tokens is the reference's, and so are its log-probs."""
    prompts = [*served.audio_prompts[:3], *served.text_prompts]
    samples = [group[0] for group in served.generate(prompts, samples=1, tokens=12, temperature=0.0)]
    reference = StepAudio2ForCausalLM.from_pretrained(served.model_dir)
    assert served.worst(reference, samples) <= 1e-4
    banned = list(special_ids(served.builder.tokenizer).banned)
    for sample in samples:
        features = [torch.from_numpy(served.features.get(key)) for key in sample.feature_keys]
        ids = torch.tensor([[*sample.prompt_ids, *sample.response_ids]])
        with torch.no_grad():
            logits = reference(ids, features)[0, len(sample.prompt_ids) - 1 : -1]
        logits[:, banned] = -torch.inf
        assert tuple(logits.argmax(-1).tolist()) == tuple(sample.response_ids)


def test_what_was_exported_comes_back_with_equal_bits(exported: Path, tmp_path: Path) -> None:
    assert mgrd("import", exported, "--to", tmp_path / "imported").exit_code == 0
    assert mgrd("export", tmp_path / "imported", "--to", tmp_path / "again").exit_code == 0
    assert bits(tmp_path / "again") == bits(exported)
    half = mgrd("export", tmp_path / "imported", "--to", tmp_path / "half", "--dtype", "bfloat16")
    assert half.exit_code == 0 and len(bits(tmp_path / "half")) < 0.51 * len(bits(exported))
    assert {str(tensor.dtype) for tensor in load_file(tmp_path / "half" / "model.safetensors").values()} == {
        "torch.bfloat16"
    }


def test_a_changed_byte_is_found_by_check_and_stops_an_export(copy: Path, tmp_path: Path) -> None:
    """Sizes are right, so the short look says nothing; only the long one reads."""
    data = copy / "checkpoints" / "update_000004" / "trainer" / "actor" / "__0_0.distcp"
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.unlink()  # the file is also that of `reinforce`, which stays whole
    data.write_bytes(content)
    assert mgrd("checkpoints", copy).exit_code == 0
    result = mgrd("checkpoints", copy, "--check")
    assert result.exit_code == 1
    assert f"damaged: {data} has changed since it was written" in said(result)
    refused = mgrd("export", copy / "checkpoints" / "update_000004", "--to", tmp_path / "out")
    assert refused.exit_code == 2 and f"refused: {data} has changed" in said(refused)
    assert mgrd("export", copy / "checkpoints" / "reinforce", "--to", tmp_path / "whole").exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "whole"]


def test_torn_missing_and_foreign_files_are_refused_by_name(copy: Path, tmp_path: Path) -> None:
    shelf = copy / "checkpoints"
    torn = shelf / "sft" / "trainer" / "actor" / "__0_0.distcp"
    os.truncate(torn, torn.stat().st_size - 1)
    missing = shelf / "update_000004" / "trainer" / "actor" / ".metadata"
    missing.unlink()
    foreign = shelf / "update_000002" / "trainer" / "actor"
    shutil.rmtree(foreign)
    shutil.copytree(shelf / "reinforce" / "trainer" / "actor", foreign)
    result = mgrd("checkpoints", copy)
    assert result.exit_code == 1
    for name, told in (
        ("sft", f"{torn} is torn"),
        ("update_000004", f"{missing} is missing"),
        ("update_000002", f"{foreign}/manifest.json has changed"),
    ):
        assert f"damaged: {told}" in said(result)
        refused = mgrd("export", shelf / name, "--to", tmp_path / "out")
        assert refused.exit_code == 2 and told in said(refused)
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_replaced_only_when_asked(exported: Path, whole_run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    words = ("export", whole_run / "checkpoints" / "reinforce", "--to", tmp_path / "out")
    refused = mgrd(*words)
    assert refused.exit_code == 2 and "out is not empty; give another folder, or replace" in said(refused)
    assert mgrd(*words, "--force").exit_code == 0
    assert bits(tmp_path / "out") == bits(exported) and not (tmp_path / "out" / "notes.txt").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("export", "RUN/model"), "is no checkpoint and no run"),
        (("export", "RUN", "--adapter", "apart"), "holds no low-rank update"),
        (("export", "RUN", "--base", "/nowhere"), "is not here: /nowhere; give a Hugging Face folder"),
        (("export", "RUN", "--adapter", "apart", "--dtype", "float16"), "--dtype is for merged weights"),
        (("export", "STORE/whole/update_000009"), "has no complete checkpoint"),
        (("import", "RUN/checkpoints"), "holds no config.json"),
    ],
)
def test_what_cannot_be_converted_is_refused_with_the_reason(
    whole_run: Path, micro_runs: MicroRuns, tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    named = [word.replace("RUN", str(whole_run)).replace("STORE", micro_runs.store) for word in words]
    result = mgrd(*named, "--to", tmp_path / "out")
    assert result.exit_code == 2 and told in said(result), result.output
    assert not list(tmp_path.iterdir())
