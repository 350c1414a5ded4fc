"""A run directory has one writer, and nothing in it is ever half there."""

import pytest

from orchestrator.errors import PreflightError
from orchestrator.rundir import RunDirectory


def test_a_second_run_in_the_same_directory_is_refused_by_process_number(tmp_path):
    first = RunDirectory(tmp_path / "run")
    first.claim(resume=False)
    with pytest.raises(PreflightError, match=r"another run \(process \d+\)"):
        RunDirectory(tmp_path / "run").claim(resume=False)
    first.release()
    RunDirectory(tmp_path / "run").claim(resume=False)


def test_a_directory_that_holds_a_run_is_only_taken_to_resume_it(tmp_path):
    directory = RunDirectory(tmp_path)
    with pytest.raises(PreflightError, match="nothing to resume"):
        directory.claim(resume=True)
    directory.claim(resume=False)
    directory.write_state({"stages": {}})
    directory.release()
    with pytest.raises(PreflightError, match=r"run\.resume=true"):
        RunDirectory(tmp_path).claim(resume=False)
    RunDirectory(tmp_path).claim(resume=True)


def test_a_directory_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PreflightError, match=r"run\.dir"):
        RunDirectory(tmp_path / "file" / "run").claim(resume=False)


def test_an_update_record_cut_off_by_a_crash_is_not_read(tmp_path):
    directory = RunDirectory(tmp_path)
    for number in (1, 2, 3):
        directory.append_update({"update": number})
    with directory.updates_file.open("a") as file:
        file.write('{"update": 4, "metr')
    assert [r["update"] for r in directory.read_updates()] == [1, 2, 3]
    directory.drop_updates_after(2, "reinforce")
    directory.append_update({"update": 3})
    assert [r["update"] for r in directory.read_updates()] == [1, 2, 3]


def test_a_stage_that_is_done_anew_drops_its_own_records_alone(tmp_path):
    directory = RunDirectory(tmp_path)
    for number, stage in ((1, "t1"), (2, "t1"), (3, "t2")):
        directory.append_update({"update": number, "stage": stage})
    directory.drop_updates_after(0, "t1")
    directory.append_update({"update": 1, "stage": "t1"})
    assert [(r["update"], r["stage"]) for r in directory.read_updates()] == [(1, "t1"), (3, "t2")]
