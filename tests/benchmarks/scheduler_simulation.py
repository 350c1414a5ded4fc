"""Ten thousand experiments on a thousand GPUs in simulated time: the service's policy beside simpler ones.

    python tests/benchmarks/scheduler_simulation.py [--experiments 10000] [--machines 125] [--offered 0.95] [--seed 0]
        [--round-s 300] [--only policy,fifo] [--redraw] [--out docs/results/scheduler]

Rules: `policy`, as the scheduler runs it with default settings; `fifo`, gangs in the order in which they came, nobody passes one that
waits; `priority`, the highest priority first and then the oldest, whatever fits, without ageing, fair share or reservations;
`unreserved`, the policy without machines held for who waits long. All run the same experiments with the same running times.

Writes results.json, table.md and waits.png into --out. Times of a decision are CPU time of one round (`schedule_ms_at_10000`: the median
of rounds over 10,000 waiting on 130 machines, `schedule_wall_ms_at_10000` on the clock). The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from orchestrator.service.placement import Node
from orchestrator.service.policy import PolicySettings, decide
from orchestrator.service.simulated_load import Load, SimulatedExperiment, experiments, machines
from orchestrator.service.simulation import PolicyRule, Rule, Simulated, first_come, simulate
from orchestrator.service.simulation_figures import HOUR_S, figures

console = Console(width=140)
NEVER_AGE = PolicySettings(age_step_s=math.inf, reservations=0, fair_share=False)
TITLES = {
    "policy": "the service's policy",
    "unreserved": "the same, nothing held",
    "priority": "priority, no ageing",
    "fifo": "FIFO gang, no backfill",
}
REPEATS = 7


def main() -> None:
    options = _options()
    file = options.out / "results.json"
    if not options.redraw:
        options.out.mkdir(parents=True, exist_ok=True)
        _measure(options, file)
    results = json.loads(file.read_text())
    (options.out / "table.md").write_text(_markdown(results["rules"]))
    _plot(results["rules"], options.out / "waits.png")
    for table in _tables(results["rules"]):
        console.print(table)
    print(json.dumps(_last_line(results)))


def _measure(options: argparse.Namespace, file: Path) -> None:
    """Writes the file after every rule: a run that is cut short leaves what it has."""
    load = Load(experiments=options.experiments, machines=options.machines, offered=options.offered, seed=options.seed)
    drawn, nodes = experiments(load), machines(load)
    gpus = sum(node.gpus for node in nodes)
    rules: dict[str, Rule] = {
        "policy": PolicyRule(PolicySettings()),
        "fifo": first_come,
        "priority": PolicyRule(NEVER_AGE),
        "unreserved": PolicyRule(PolicySettings(reservations=0)),
    }
    results: dict[str, Any] = {
        "load": {**asdict(load), "span_h": drawn[-1].queued_at / HOUR_S, "round_s": options.round_s},
        "settings": asdict(PolicySettings()),
        **_decision_times(),
        "rules": {},
    }
    for name in [name for name in rules if not options.only or name in options.only.split(",")]:
        clocked = Clocked(rules[name])
        simulated = _simulate(TITLES[name], drawn, nodes, clocked, options.round_s)
        results["rules"][name] = {**asdict(figures(simulated, gpus)), **clocked.times()}
        file.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")


class Clocked:
    """A rule, and the CPU time of each of its rounds with how many waited."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self.rounds: list[tuple[int, float]] = []

    def __call__(
        self,
        waiting: Sequence[SimulatedExperiment],
        running: Sequence[SimulatedExperiment],
        ended: Sequence[SimulatedExperiment],
        nodes: Sequence[Node],
        now: float,
    ) -> Iterable[tuple[str, Sequence[str]]]:
        start = time.process_time()
        starts = list(self._rule(waiting, running, ended, nodes, now))
        self.rounds.append((len(waiting), (time.process_time() - start) * 1e3))
        return starts

    def times(self) -> dict[str, float]:
        spent = sorted(ms for _, ms in self.rounds)
        return {
            "rounds": len(spent),
            "most_waiting": max(count for count, _ in self.rounds),
            "round_cpu_ms_p50": spent[len(spent) // 2],
            "round_cpu_ms_p99": spent[int(len(spent) * 0.99)],
        }


def _simulate(
    title: str, drawn: Sequence[SimulatedExperiment], nodes: Sequence[Node], rule: Rule, round_s: float
) -> Simulated:
    columns = (TextColumn(f"{title:24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=len(drawn))
        return simulate(
            drawn, nodes, rule, round_s=round_s, progress=lambda started: bar.update(task, completed=started)
        )


def _decision_times() -> dict[str, float]:
    """One round over 10,000 waiting and 400 running on 130 machines, with a tenth of the GPUs free in ones and twos."""
    draw = random.Random(1)
    drawn = experiments(Load(experiments=10_400, machines=130))
    now = max(e.queued_at for e in drawn) + 60.0
    waiting = drawn[:10_000]
    running = [replace(e, first_started_at=now - draw.random() * 80_000.0) for e in drawn[10_000:]]
    nodes = [replace(node, free_gpus=draw.choice([0.0, 0.0, 0.0, 1.0, 2.0])) for node in machines(Load(machines=130))]
    wall, cpu = [], []
    for _ in range(REPEATS):
        at, used = time.perf_counter(), time.process_time()
        decisions = decide(waiting, running, nodes, PolicySettings(), now)
        wall.append((time.perf_counter() - at) * 1e3)
        cpu.append((time.process_time() - used) * 1e3)
    if len(decisions) != len(waiting):
        raise SystemExit(f"{len(decisions)} decisions on {len(waiting)} experiments")
    return {
        "schedule_ms_at_10000": statistics.median(cpu),
        "schedule_wall_ms_at_10000": statistics.median(wall),
    }


def _tables(rules: dict[str, Any]) -> list[Table]:
    whole = Table("rule", "GPUs in use", "all done after", "wait p50/p95/max", "Jain", "light / heavy users wait")
    for name, f in rules.items():
        whole.add_row(
            TITLES[name],
            f"{f['utilisation']:.1%}",
            f"{f['makespan_h']:.0f} h",
            f"{_hours(f['waits'])} h",
            f"{f['fairness']:.2f}",
            f"{f['light_wait_h']:.1f} / {f['heavy_wait_h']:.1f} h",
        )
    return [whole, _waits_table(rules, "priority", "by_priority"), _waits_table(rules, "GPUs", "by_size")]


def _waits_table(rules: dict[str, Any], title: str, field: str) -> Table:
    keys = list(next(iter(rules.values()))[field])
    table = Table(f"hours waited by {title}: p50/p95/max", *keys)
    for name, f in rules.items():
        table.add_row(TITLES[name], *(_hours(f[field][key]) for key in keys))
    return table


def _hours(waits: dict[str, float]) -> str:
    return f"{waits['p50_h']:.1f}/{waits['p95_h']:.1f}/{waits['max_h']:.0f}"


def _markdown(rules: dict[str, Any]) -> str:
    parts = []
    for table in _tables(rules):
        rows = zip(*([str(cell) for cell in column.cells] for column in table.columns), strict=True)
        lines = [[str(column.header) for column in table.columns], ["---"] * len(table.columns), *rows]
        parts.append("\n".join("| " + " | ".join(line) + " |" for line in lines))
    return "\n\n".join(parts) + "\n"


def _plot(rules: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, ((use, priority), (size, users)) = plt.subplots(2, 2, figsize=(13, 8), layout="constrained")
    for at, (name, f) in enumerate(rules.items()):
        use.barh(TITLES[name], f["utilisation"], color=f"C{at}")
        use.text(0.01, TITLES[name], f"{f['utilisation']:.1%}", va="center", color="white")
        for axes, waits in ((priority, f["by_priority"]), (size, f["by_size"])):
            places = [k + 0.2 * (at - 1.5) for k in range(len(waits))]
            axes.bar(places, [w["p95_h"] for w in waits.values()], 0.18, color=f"C{at}", label=TITLES[name])
            axes.plot(places, [w["max_h"] for w in waits.values()], "_", color=f"C{at}", markersize=9)
            axes.set_xticks(range(len(waits)), list(waits))
        waited = [max(user["wait_h"], 0.01) for user in f["users"]]
        users.plot(
            [user["gpu_h"] for user in f["users"]], waited, "o", markersize=4, color=f"C{at}", label=TITLES[name]
        )
    use.set(title="GPUs in use until the last submission", xlabel="share of all GPU time", xlim=(0, 1))
    use.invert_yaxis()
    priority.set(title="waiting by priority", ylabel="hours: bar p95, dash longest", yscale="log")
    size.set(title="waiting by size", xlabel="GPUs", ylabel="hours: bar p95, dash longest", yscale="log")
    users.set(title="waiting by user", xlabel="GPU hours", ylabel="mean hours waited", xscale="log", yscale="log")
    priority.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _last_line(results: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {
        "schedule_ms_at_10000": round(results["schedule_ms_at_10000"], 1),
        "schedule_wall_ms_at_10000": round(results["schedule_wall_ms_at_10000"], 1),
    }
    for name, f in results["rules"].items():
        out[f"{name}_utilisation"] = round(f["utilisation"], 4)
        out[f"{name}_wait_p95_h"] = round(f["waits"]["p95_h"], 2)
        out[f"{name}_wait_max_h"] = round(f["waits"]["max_h"], 1)
        out[f"{name}_fairness"] = round(f["fairness"], 3)
    return out


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=10_000)
    parser.add_argument("--machines", type=int, default=125, help="of 8 GPUs each")
    parser.add_argument("--offered", type=float, default=0.95, help="GPU time asked for, of what there is")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--round-s", type=float, default=300.0, help="simulated seconds between rounds of the scheduler"
    )
    parser.add_argument("--only", default="", help="comma-separated names of rules")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "docs/results/scheduler")
    parser.add_argument("--redraw", action="store_true", help="measure nothing; table and plot from results.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
