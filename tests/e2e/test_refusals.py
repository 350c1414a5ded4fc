"""Bad input is refused with a message, by exit status 2, before anything starts."""

import json

import pytest
from conftest import MicroRuns
from typer.testing import CliRunner

from orchestrator.cli import REFUSED, app
from orchestrator.rundir import RunDirectory

runner = CliRunner()


def refused(*argv: str) -> str:
    result = runner.invoke(app, ["run", *argv])
    assert result.exit_code == REFUSED, result.output
    return " ".join(result.output.split())


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("actor.ppo.clip_hihg=0.2", "did you mean actor.ppo.clip_high"),
        ("experiment=dem", "did you mean 'demo'?"),
        ("actor.ppo.gamma=1.5", "actor.ppo.gamma = 1.5: must be above 0 and at most 1"),
        ("run.min_free_memory_gib=100000", "GiB of memory are free"),
        ("data.train=/nowhere/train.jsonl", "data.train: /nowhere/train.jsonl does not exist"),
    ],
)
def test_a_bad_value_is_refused(override, words, tmp_path):
    assert words in refused("experiment=micro", f"run.dir={tmp_path / 'run'}", override)
    assert not (tmp_path / "run" / "logs").exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ("actor.world_size=3", "actor.pipeline_parallel=3"),
            "text_config.num_hidden_layers=5 does not divide by pipeline_parallel=3",
        ),
        (
            ("actor.critic.placement=colocated", "actor.world_size=2", "actor.critic.context_parallel=3"),
            "actor.critic.tensor_parallel = 1: tensor (1) x pipeline (1) x context (3) = 3 ranks must divide",
        ),
        (("actor.sequence_parallel=true",), "it needs tensor above 1"),
        (("actor.critic.tensor_parallel=2",), "has no effect while actor.critic.placement=shared"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(overrides, words, tmp_path):
    assert words in refused("experiment=micro", f"run.dir={tmp_path / 'run'}", *overrides)


def test_a_run_directory_that_cannot_be_used_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    assert "is a file; choose a directory" in refused("experiment=micro", f"run.dir={tmp_path / 'file'}")
    busy = RunDirectory(tmp_path / "busy")
    busy.claim(resume=False)
    assert "another run (process" in refused("experiment=micro", f"run.dir={tmp_path / 'busy'}")
    busy.release()
    assert "nothing to resume" in refused("experiment=micro", f"run.dir={tmp_path / 'new'}", "run.resume=true")


@pytest.mark.slow
def test_corrupt_and_missing_clips_are_named_by_file_and_line(micro_runs: MicroRuns, tmp_path):
    lines = (micro_runs.data / "train.jsonl").read_text().splitlines()[:3]
    records = [json.loads(line) for line in lines]
    for record in records:
        for clip in record["audio"]:
            clip["path"] = str(micro_runs.data / clip["path"])
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF nothing that decodes")
    records[0]["audio"][0]["path"] = str(broken)
    records[2]["audio"][0]["path"] = str(tmp_path / "absent.wav")
    train = tmp_path / "train.jsonl"
    train.write_text("".join(json.dumps(record) + "\n" for record in records))
    output = refused(
        "experiment=micro",
        f"run.dir={tmp_path / 'run'}",
        f"data.train={train}",
        f"data.held_out={micro_runs.data / 'held_out.jsonl'}",
    )
    assert "train.jsonl:1" in output
    assert "train.jsonl:3" in output
    assert "absent.wav" in output
