"""Figures of several runs side by side come from the runs' own files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from orchestrator.errors import MgrdError
from orchestrator.results import change_table, kept_metrics, read_runs, table, without_places, write_folder
from orchestrator.sentinels import SENTINELS

BEFORE = {
    "sampled": 0.7,
    "stderr": 0.015,
    "greedy": 0.8,
    "greedy_stderr": 0.02,
    "think_present": 0.9,
    "true_perceptions": 0.64,
}
AFTER = BEFORE | {"sampled": 0.85, "greedy": 0.86, "think_present": 0.991, "true_perceptions": 0.63}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "demo-seed4"
    folder.mkdir(parents=True)
    report = {
        "seed": 4, "seconds": 360.0, "policy_updates": 2, "probe_max_abs_diff": 9.5e-6, "eval": {"before": BEFORE, "after": AFTER},
        "model": f"{folder}/model",
    }  # fmt: skip
    (folder / "report.json").write_text(json.dumps(report))
    figures = {"reward/mean": 0.8, "accuracy": 0.8, "think/true_perceptions": 0.6, "policy/entropy": 0.2}
    (folder / "updates.jsonl").write_text("".join(json.dumps({"update": u, "metrics": figures}) + "\n" for u in (1, 2)))
    return folder


def test_tables_hold_before_after_and_change(run: Path) -> None:
    runs = read_runs([run])
    assert table(runs)[1][:4] == ["demo-seed4", "4", "70.0 ±1.5 → 85.0 ±1.5", "80.0 ±2.0 → 86.0 ±2.0"]
    assert change_table(runs)[1] == ["demo-seed4", "+15.0", "+6.0", "+9.1", "-1.0", "99.1", "9.5e-06"]


def test_the_folder_holds_tables_plot_and_reports_without_the_place_they_ran_in(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_folder(read_runs([run]), out)
    text = (out / "table.md").read_text()
    assert "70.0 ±1.5 → 85.0" in text and "+15.0" in text
    assert (out / "updates.png").stat().st_size > 10_000
    assert json.loads((out / "demo-seed4.json").read_text())["model"] == "demo-seed4/model"
    assert str(tmp_path) not in (out / "demo-seed4.json").read_text()


def test_of_every_policy_update_what_plots_and_sentinels_look_at_is_copied(run: Path, tmp_path: Path) -> None:
    seen = {"reward/mean": 2 / 3, "policy/entropy": 1e-7 / 3, "probe/max_abs_diff": 1.5e-5, "think/tokens": math.nan}
    records = [
        {"update": u, "stage": "reinforce", "version": u + 1, "metrics": seen | {f"reward/answer/task/{i}": 0.5 for i in range(200)}}
        for u in (1, 2)
    ]  # fmt: skip
    (run / "updates.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    write_folder(read_runs([run]), tmp_path / "out")
    first, second = map(json.loads, (tmp_path / "out" / "demo-seed4.updates.jsonl").read_text().splitlines())
    assert first == {
        "update": 1, "stage": "reinforce", "version": 2,
        "metrics": {"reward/mean": 0.666667, "policy/entropy": 3.33333e-08, "probe/max_abs_diff": 1.5e-05, "think/tokens": None},
    }  # fmt: skip
    assert second["update"] == 2
    assert {metric for sentinel in SENTINELS for metric in sentinel.metrics} <= set(kept_metrics())


@pytest.mark.parametrize(
    ("path", "short"),
    [
        ("/runs/demo/model", "demo/model"),
        ("/demo/old/demo/checkpoints/update_000060", "demo/checkpoints/update_000060"),
        ("/elsewhere/model", "model"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("and/or", "and/or"),
    ],
)
def test_no_path_of_this_machine_is_copied(path: str, short: str) -> None:
    assert without_places({"a": [path, 1.5, None]}, "demo") == {"a": [short, 1.5, None]}


def test_figures_that_a_run_does_not_have_are_dashes(run: Path, tmp_path: Path) -> None:
    report = json.loads((run / "report.json").read_text())
    for side in report["eval"].values():
        side["true_perceptions"] = None
    report["eval"]["after"]["think_present"] = None
    (run / "report.json").write_text(json.dumps(report | {"probe_max_abs_diff": None}))
    runs = read_runs([run])
    assert table(runs)[1][4:6] == ["90.0 → –", "– → –"]
    assert change_table(runs)[1] == ["demo-seed4", "+15.0", "+6.0", "–", "–", "–", "–"]
    write_folder(runs, tmp_path / "out")
    assert "| – |" in (tmp_path / "out" / "table.md").read_text()


def test_a_folder_without_a_finished_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(MgrdError, match=r"holds no report\.json"):
        read_runs([tmp_path])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"seed": 4, "sec', r"demo-seed4: report\.json or updates\.jsonl is damaged"),
        ('{"seed": 4, "sampled": {"value": 0.5}}', r"lacks seconds, policy_updates, curve, experiment"),
        ("[]", "is no report of a run"),
    ],
)
def test_a_report_that_is_damaged_or_none_of_a_run_is_named(run: Path, text: str, said: str) -> None:
    (run / "report.json").write_text(text)
    with pytest.raises(MgrdError, match=said):
        read_runs([run])
