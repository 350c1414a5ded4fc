"""The simulated cluster does what the real one would, and its figures say what it did."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import pytest

from orchestrator.service.messages import Priority
from orchestrator.service.placement import Node, never_fits
from orchestrator.service.policy import PolicySettings
from orchestrator.service.simulated_load import DAY_S, Load, SimulatedExperiment, experiments, gang, machines
from orchestrator.service.simulation import Overcommitted, PolicyRule, Rule, Run, Simulated, first_come, simulate
from orchestrator.service.simulation_figures import busy, figures

SMALL = Load(experiments=150, machines=6, users=5, offered=1.1, sizes={1: 0.4, 4: 0.2, 8: 0.3, 32: 0.1}, seed=3)
PLAIN = PolicySettings(age_step_s=math.inf, reservations=0, fair_share=False)


def experiment(id: str, gpus: int, at: float, duration_s: float, user: str = "ann") -> SimulatedExperiment:
    return SimulatedExperiment(id, user, Priority.NORMAL, gang(gpus), at, duration_s)


def starts(simulated: Simulated) -> dict[str, float]:
    return {run.experiment.id: run.started_at for run in simulated.runs}


def test_the_load_is_the_same_for_the_same_seed_and_fits_the_cluster() -> None:
    drawn, nodes = experiments(SMALL), machines(SMALL)
    assert drawn == experiments(SMALL)
    assert len(drawn) == len({e.id for e in drawn}) == SMALL.experiments
    assert drawn[0].queued_at == 0.0 and sorted(drawn, key=lambda e: e.queued_at) == drawn
    assert not any(never_fits(e.demand, nodes) for e in drawn)


def test_the_load_asks_for_the_share_of_the_cluster_that_was_ordered_and_more_by_day() -> None:
    load = Load(experiments=4000, machines=125, offered=0.9, seed=1)
    drawn = experiments(load)
    work = sum(e.demand.gpus * e.duration_s for e in drawn)
    assert work / (drawn[-1].queued_at * 1000) == pytest.approx(0.9, rel=0.05)
    days = int(drawn[-1].queued_at // DAY_S)
    hours = [e.queued_at % DAY_S / 3600 for e in drawn if e.queued_at < days * DAY_S]
    assert sum(8 <= hour < 16 for hour in hours) > 1.4 * sum(hour < 4 or hour >= 20 for hour in hours)
    by_user = {user: sum(e.user == user for e in drawn) for user in {e.user for e in drawn}}
    assert max(by_user, key=lambda user: by_user[user]) == "user-00"


@pytest.mark.parametrize(
    "rule", [PolicyRule(PolicySettings()), PolicyRule(PLAIN), first_come], ids=["policy", "plain", "fifo"]
)
def test_everything_runs_once_and_no_sooner_than_it_came(rule: Rule) -> None:
    drawn = experiments(SMALL)
    simulated = simulate(drawn, machines(SMALL), rule, round_s=600)
    assert sorted(starts(simulated)) == [e.id for e in drawn]
    assert not simulated.left
    assert all(run.started_at >= run.experiment.queued_at for run in simulated.runs)
    assert max(busy(simulated.runs, k * 3600.0, k * 3600.0 + 1) for k in range(400)) <= 48


def test_the_same_simulation_gives_the_same_schedule() -> None:
    once, twice = (
        simulate(experiments(SMALL), machines(SMALL), PolicyRule(PolicySettings()), round_s=600) for _ in range(2)
    )
    assert once == twice


def test_first_come_lets_nobody_pass_and_the_policy_fills_the_gap() -> None:
    nodes = machines(Load(machines=2))
    queue = [experiment("a", 8, 0, 1000), experiment("b", 16, 1, 1000), experiment("c", 8, 2, 500)]
    assert starts(simulate(queue, nodes, first_come, round_s=10)) == {"a": 0, "b": 1000, "c": 2000}
    assert starts(simulate(queue, nodes, PolicyRule(PolicySettings()), round_s=10)) == {"a": 0, "b": 1000, "c": 10}


def test_with_machines_held_a_big_gang_starts_sooner_than_behind_an_endless_stream() -> None:
    nodes = machines(Load(machines=2))
    stream = [experiment(f"s{i:03d}", 8, 500.0 * i, 1100, user=f"u{i % 3}") for i in range(120)]
    queue = [*stream, experiment("big", 16, 100, 1000)]
    held = simulate(queue, nodes, PolicyRule(PolicySettings(reserve_after_s=3600, age_step_s=math.inf)), round_s=10)
    plain = simulate(queue, nodes, PolicyRule(PolicySettings(reservations=0, age_step_s=math.inf)), round_s=10)
    assert starts(held)["big"] < 2 * 3600 < starts(plain)["big"]


def test_a_rule_that_gives_away_what_is_taken_is_found_out() -> None:
    def greedy(
        waiting: Sequence[SimulatedExperiment], running: object, ended: object, nodes: Sequence[Node], now: float
    ) -> Iterable[tuple[str, Sequence[str]]]:
        return [(e.id, [nodes[0].id]) for e in waiting]

    with pytest.raises(Overcommitted, match="machine-000"):
        simulate([experiment("a", 8, 0, 9), experiment("b", 1, 0, 9)], machines(SMALL), greedy)


def test_the_figures_are_those_of_a_schedule_that_one_can_count_by_hand() -> None:
    hour = 3600.0
    runs = (
        Run(experiment("a", 8, 0, 2 * hour), 0.0),
        Run(experiment("b", 8, hour, hour, user="bob"), 2 * hour),
        Run(experiment("c", 4, 4 * hour, hour), 4 * hour),
    )
    found = figures(Simulated(runs, (experiment("d", 1, 0, 1),), 9), gpus=8)
    assert found.utilisation == pytest.approx(3 / 4)  # three of the four hours until the last submission
    assert found.makespan_h == 5
    assert found.never_started == 1
    assert (found.waits.count, found.waits.p50_h, found.waits.max_h) == (3, 0.0, 1.0)
    assert list(found.by_size) == ["4", "8"] and found.by_size["8"].max_h == 1.0
    assert [(u.user, u.gpu_h, u.wait_h, u.slowdown) for u in found.users] == [("ann", 20, 0, 1), ("bob", 8, 1, 2)]
    assert found.fairness == 0.5  # one of two does all the waiting
    assert (found.light_wait_h, found.heavy_wait_h) == (1, 0)
    assert busy(runs, hour, 3 * hour) == 16 * hour
    assert busy(runs, 3.5 * hour, 3.6 * hour) == 0
