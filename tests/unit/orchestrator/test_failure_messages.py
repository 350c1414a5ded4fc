"""Whatever ends a run, its user reads what happened, in which stage, and where the traceback is; never a traceback itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli import FAILED, app
from orchestrator.controller import Controller
from orchestrator.errors import RunFailed
from orchestrator.failures import FAILURE_FILE, told
from rollout import AudioError


def raised(error: Exception, *notes: str) -> Exception:
    try:
        raise error
    except type(error) as caught:
        for note in notes:
            caught.add_note(note)
        return caught


def test_the_stage_comes_first_and_the_traceback_goes_into_a_file(tmp_path: Path) -> None:
    text = told(raised(KeyError("pool"), "stage t1.reinforce"), tmp_path)
    assert text.startswith("stage t1.reinforce: KeyError: 'pool'. This should not happen")
    assert text.endswith(f"traceback: {tmp_path / FAILURE_FILE}")
    kept = (tmp_path / FAILURE_FILE).read_text()
    assert "Traceback (most recent call last)" in kept and "KeyError: 'pool'" in kept


def test_a_message_that_names_its_stage_does_not_name_it_twice(tmp_path: Path) -> None:
    error = raised(RunFailed("stage t1.distil: 0 chains passed the filters"), "stage t1.distil")
    assert told(error, tmp_path).splitlines()[0] == "RunFailed: stage t1.distil: 0 chains passed the filters"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RunFailed("too few"), True),
        (AudioError("a.wav does not decode"), True),
        (OSError(28, "No space left on device", "/runs/a"), True),
        (ValueError("x"), False),
        (RuntimeError("shapes"), False),
    ],
)
def test_only_errors_that_are_not_our_own_are_called_unexpected(error: Exception, expected: bool, tmp_path: Path):
    assert ("should not happen" not in told(raised(error), tmp_path)) == expected


def test_an_error_is_told_where_its_traceback_can_not_be_kept(tmp_path: Path) -> None:
    assert told(raised(RunFailed("too few")), tmp_path / "gone") == "RunFailed: too few"


def test_a_run_that_fails_by_any_error_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Controller) -> dict[str, object]:
        (tmp_path / "run").mkdir()
        raise raised(ValueError("batches need at least one item"), "stage sft")

    monkeypatch.setattr(Controller, "run", fail)
    result = CliRunner().invoke(app, ["run", "experiment=micro", f"run.dir={tmp_path / 'run'}"])
    assert result.exit_code == FAILED
    said = " ".join(result.output.split())
    assert "failed: stage sft: ValueError: batches need at least one item. This should not happen" in said
    assert f"go on with: mgrd resume {tmp_path / 'run'}" in said
    assert "Traceback" not in said and (tmp_path / "run" / FAILURE_FILE).is_file()
