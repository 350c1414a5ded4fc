"""Trainer ranks die by kill -9 and hang by SIGSTOP, one after another in one run: the run goes on by itself and ends as if undisturbed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import MicroRuns, eventually, processes_of, report, updates

from actor.faults import VARIABLE, Fault, left, plan

pytestmark = [pytest.mark.slow, pytest.mark.chaos]

HANG_S = 10.0
SLACK_S = 5.0  # of the hang's limit, for a busy machine
# The actor on rank 0, the critic on rank 1: the same numbers, bit by bit, as both on one.
TWO_RANKS = ("actor.critic.placement=apart", "cluster.num_cpus=6")
# Passings count from the start of the rank's process, so each of these strikes in a trainer that has been started anew.
FAULTS = (
    Fault(rank=0, phase="forward", passing=2),  # supervised step 2: there is no checkpoint yet
    Fault(rank=0, phase="backward", passing=3),
    Fault(rank=1, phase="checkpoint write"),  # the first with a critic
    Fault(
        rank=0, phase="publish", passing=3
    ),  # policy update 1, or 2: engines and critic were given the weights before
    Fault(rank=1, phase="optimizer step", passing=2),  # policy update 2
    Fault(rank=0, phase="forward", passing=3, signal="SIGSTOP"),  # policy update 3
)


@dataclass(frozen=True)
class Struck:
    """A run whose trainer was struck by all `FAULTS`; log: of its driver."""

    directory: Path
    code: int
    output: str
    missed: Sequence[str]
    log: str


@pytest.fixture(scope="module")
def struck(micro_runs: MicroRuns) -> Struck:
    directory, faults = micro_runs.root / "struck", micro_runs.root / "faults"
    plan(faults, FAULTS)
    limits = ("actor.heartbeat_s=1", f"actor.hang_s={HANG_S:g}", "run.checkpoint_async=true")
    process = micro_runs.start(directory, *TWO_RANKS, *limits, environment={VARIABLE: str(faults)})
    code, output = micro_runs.finish(process)
    return Struck(directory, code, output, left(faults), (directory / "logs" / "driver.log").read_text())


def test_every_death_is_named_with_rank_phase_and_cause(struck: Struck) -> None:
    assert struck.code == 0, struck.output
    assert struck.missed == []
    deaths = report(struck.directory)["trainer_deaths"]
    assert [death["rank"] for death in deaths] == [fault.rank for fault in FAULTS]
    for death, fault in zip(deaths, FAULTS, strict=True):
        assert fault.phase in death["phase"]
        assert death["failure"] == ("hung" if fault.signal == "SIGSTOP" else "died")
        named = rf"trainer rank {fault.rank} \(pid \d+ on \S+\): .*it was in '{death['phase']}'"
        assert re.search(named, struck.log), (fault, struck.log)
        assert f"rank {fault.rank} {death['failure']} in '{death['phase']}'" in struck.output


def test_a_hang_is_found_within_its_limit(struck: Struck) -> None:
    silent = re.findall(r"no sign of life for ([\d.]+) s during \S.* \(its process is there, stopped\)", struck.log)
    assert silent and all(HANG_S <= float(seconds) <= HANG_S + SLACK_S for seconds in silent), struck.log


def test_the_run_equals_one_that_nothing_disturbed(struck: Struck, whole_run: Path) -> None:
    assert updates(struck.directory) == updates(whole_run)
    for part in ("eval", "select", "policy_updates", "invalid_verdicts"):
        assert report(struck.directory)[part] == report(whole_run)[part]
    assert eventually(lambda: processes_of(struck.directory) == [], 20.0)
