"""Ctrl-C and kill -9 at named points: the resumed run ends with the numbers of one that nothing disturbed."""

import pytest
from conftest import MicroRuns, eventually, processes_of, report, updates

pytestmark = [pytest.mark.slow, pytest.mark.chaos]
CLEAN_UP_LIMIT_S = 20.0


def test_an_interrupted_and_twice_killed_run_ends_like_an_undisturbed_one(micro_runs: MicroRuns, whole_run):
    directory = micro_runs.root / "disturbed"

    code, output = micro_runs.interrupt_after_updates(directory, 1)
    assert code == 130, output
    assert "run.resume=true" in output
    assert processes_of(directory) == []

    code, output = micro_runs.run(directory, "run.resume=true", chaos="update:3:after_rollout")
    assert code == -9, output
    assert eventually(lambda: processes_of(directory) == [], CLEAN_UP_LIMIT_S)

    code, output = micro_runs.run(directory, "run.resume=true", chaos="checkpoint:update_000004:written")
    assert code == -9, output
    assert not (directory / "report.json").exists()

    code, output = micro_runs.run(directory, "run.resume=true")
    assert code == 0, output
    assert updates(directory) == updates(whole_run)
    assert report(directory)["eval"] == report(whole_run)["eval"]
    assert report(directory)["select"] == report(whole_run)["select"]
