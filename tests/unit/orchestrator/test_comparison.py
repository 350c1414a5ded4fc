"""Arms are compared seed by seed, point by point, with what their runs wrote."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recipe_reports import point, rl_folder, run_folder
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.comparison import (
    Arm,
    arm_rows,
    arms_of,
    arms_page,
    combined_report,
    difference,
    difference_rows,
    mean_curve,
    write_comparison,
)
from orchestrator.curve import mean_series, running
from orchestrator.errors import MgrdError
from orchestrator.results import FinishedRun, read_runs, recipe_of


def finished(experiment: str, seed: int, *values: float, **over: float) -> FinishedRun:
    curve = [point(f"t{i}", value, **over) for i, value in enumerate(values)]
    report = {"experiment": experiment, "seed": seed, "seconds": 100.0 * seed, "curve": curve}
    return FinishedRun(f"{experiment}-seed{seed}", report, [])


def arm(name: str, *values: float) -> Arm:
    """One point, a seed a value."""
    return Arm(name, tuple(finished(name, seed, value) for seed, value in enumerate(values)))


def test_runs_are_grouped_by_experiment_and_ordered_by_seed() -> None:
    arms = arms_of([finished("b", 12, 0.5), finished("a", 11, 0.5), finished("b", 11, 0.5)])
    assert [(a.name, a.seeds) for a in arms] == [("b", (11, 12)), ("a", (11,))]


def test_one_seed_twice_in_an_arm_is_refused_by_name() -> None:
    with pytest.raises(MgrdError, match="both a with seed 11"):
        arms_of([finished("a", 11, 0.5), finished("a", 11, 0.6)])


def test_a_mean_point_has_the_error_over_seeds() -> None:
    (mean,) = mean_curve(arm("a", 0.5, 0.7))
    assert mean["sampled"] == pytest.approx(0.6)
    assert mean["spread"]["sampled"] == pytest.approx(0.2 / math.sqrt(2))
    assert mean["stderr"] == pytest.approx(0.1)
    assert mean["longer_minus_shorter"] == pytest.approx(0.06)
    assert (mean["stage"], mean["seeds"]) == ("t0", 2)


def test_one_seed_keeps_its_own_error_and_has_no_spread() -> None:
    (mean,) = mean_curve(arm("a", 0.5))
    assert (mean["sampled"], mean["stderr"], mean["spread"]) == (0.5, 0.01, {})


def test_what_a_run_did_not_measure_is_left_out_of_the_mean() -> None:
    one, two = finished("a", 1, 0.5), finished("a", 2, 0.7, true_perceptions=None)  # type: ignore[arg-type]
    (mean,) = mean_curve(Arm("a", (one, two)))
    assert mean["true_perceptions"] == 0.4
    assert "true_perceptions" not in mean["spread"]


def test_a_difference_is_taken_within_seeds() -> None:
    found = difference(arm("a", 0.5, 0.9), arm("b", 0.4, 0.7), "t0", "sampled")
    assert found is not None
    assert found.value == pytest.approx(0.15)
    assert found.stderr == pytest.approx(0.05)  # the differences are 0.1 and 0.2; the arms themselves spread far more


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=6), st.floats(-0.5, 0.5))
def test_what_shifts_both_arms_of_a_seed_alike_changes_no_difference(
    pairs: list[tuple[float, float]], shift: float
) -> None:
    plain = difference(arm("a", *(a for a, _ in pairs)), arm("b", *(b for _, b in pairs)), "t0", "sampled")
    moved = [(a + shift * i, b + shift * i) for i, (a, b) in enumerate(pairs)]
    other = difference(arm("a", *(a for a, _ in moved)), arm("b", *(b for _, b in moved)), "t0", "sampled")
    assert plain is not None and other is not None
    assert other.value == pytest.approx(plain.value, abs=1e-9)
    assert other.stderr == pytest.approx(plain.stderr, abs=1e-9) if plain.stderr is not None else other.stderr is None


def test_arms_without_a_common_seed_have_no_difference() -> None:
    one, other = Arm("a", (finished("a", 1, 0.5),)), Arm("b", (finished("b", 2, 0.4),))
    assert difference(one, other, "t0", "sampled") is None
    assert difference_rows([one, other])[1][:4] == ["a − b", "none", "t0", "–"]


def test_rows_hold_means_with_spread_and_signed_differences() -> None:
    one, other = arm("a", 0.5, 0.7), arm("b", 0.4, 0.5)
    assert arm_rows([one, other])[1][:4] == ["a", "0, 1", "t0", "60.0 ±14.1"]
    assert difference_rows([one, other])[1][:4] == ["a − b", "0, 1", "t0", "+15.0 ±5.0"]
    assert "## Differences" in arms_page([one, other]) and "## Differences" not in arms_page([one])


def test_a_single_run_is_reported_as_it_was_measured() -> None:
    (one,) = arms_of([finished("a", 11, 0.5, 0.6)])
    found = combined_report([one])
    assert found["curve"] == one.runs[0].report["curve"]
    assert (found["seconds"], found["seed"]) == (1100.0, 11)
    assert "arms" not in found


def test_several_arms_are_reported_with_the_first_one_on_top() -> None:
    found = combined_report([arm("a", 0.5, 0.7), arm("b", 0.4)])
    assert [p["sampled"] for p in found["curve"]] == [pytest.approx(0.6)]
    assert (found["seed"], found["seconds"]) == ([0, 1], 50.0)
    assert list(found["arms"]) == ["a", "b"] and found["arms"]["b"]["seed"] == [0]


def test_a_mean_over_series_is_taken_where_all_have_a_value() -> None:
    assert mean_series([{1: 0.0, 2: 2.0, 3: 4.0}, {2: 4.0, 3: 0.0}]) == {2: 3.0, 3: 2.0}
    assert mean_series([]) == {}
    assert running({1: 1.0, 2: 3.0, 3: 5.0}, 2) == {1: 1.0, 2: 2.0, 3: 4.0}


def test_the_folder_holds_tables_plots_reports_and_every_run(tmp_path: Path) -> None:
    folders = [
        run_folder(tmp_path, name, seed, {"cold_start": 0.5, "t1": 0.6}) for name in ("a", "b") for seed in (11, 12)
    ]
    out = tmp_path / "out"
    write_comparison(read_runs(folders), out)
    names = {path.name for path in out.iterdir()}
    assert {"table.md", "arms.md", "curve.png", "updates.png", "report.json"} <= names
    assert {"a-seed11.json", "a-seed11.updates.jsonl", "b-seed12.json", "b-seed12.updates.jsonl"} <= names
    assert json.loads((out / "a-seed11.json").read_text())["model"] == "a-11/model"
    assert (out / "table.md").read_text().count("cold_start") == 4
    assert json.loads((out / "report.json").read_text())["seed"] == [11, 12]
    assert (out / "updates.png").stat().st_size > 10_000 and (out / "curve.png").stat().st_size > 10_000


def test_runs_of_both_recipes_are_refused_together(tmp_path: Path) -> None:
    folders = [run_folder(tmp_path, "a", 11, {"t1": 0.6}), rl_folder(tmp_path, "b", 11)]
    with pytest.raises(MgrdError, match="a-11 is a run of the recipe mgrd and b-11 of the recipe rl"):
        recipe_of(read_runs(folders))
    result = CliRunner().invoke(app, ["report", *map(str, folders)])
    assert result.exit_code == 2 and "one recipe at a time" in result.output.replace("\n", " ")


def test_the_command_writes_what_the_recipe_of_its_runs_asks_for(tmp_path: Path) -> None:
    whole, rl = run_folder(tmp_path, "a", 11, {"t1": 0.6}), rl_folder(tmp_path, "b", 11)
    for folder, file in ((whole, "arms.md"), (rl, "table.md")):
        out = tmp_path / f"out-{folder.name}"
        result = CliRunner().invoke(app, ["report", str(folder), "--out", str(out)])
        assert result.exit_code == 0, result.output
        assert (out / file).is_file()
    assert not (tmp_path / "out-b-11" / "arms.md").exists()
