"""Our runs beside the paper: its figures are those of its data file, and what is missing is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipe_reports import rl_folder, run_folder
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.comparison import arms_of
from orchestrator.config.compose import CONF_DIR
from orchestrator.errors import MgrdError
from orchestrator.paper import SCALES, ablation, ablations, write_against
from orchestrator.results import read_runs

POINTS = {"cold_start": 0.5, "t1": 0.6}


def folders(root: Path, name: str) -> list[Path]:
    arms = ablation(name)["arms"]
    if name == "surrogate":
        return [rl_folder(root, arm, seed) for arm in arms for seed in (11, 12)]
    return [run_folder(root, arm, seed, POINTS) for arm in arms for seed in (11, 12)]


@pytest.mark.parametrize("name", list(ablations()))
def test_every_ablation_is_drawn_with_a_caption_about_scales(name: str, tmp_path: Path) -> None:
    picture, page = write_against(name, arms_of(read_runs(folders(tmp_path, name))), tmp_path / "out")
    assert picture.stat().st_size > 20_000
    text = page.read_text()
    assert SCALES in text and "The scales differ" in SCALES
    assert ablation(name)["finding"] in text and picture.name in text


@pytest.mark.parametrize("name", list(ablations()))
def test_every_arm_is_an_experiment(name: str) -> None:
    facts = ablation(name)
    for arm in facts["arms"]:
        assert (CONF_DIR / "experiment" / f"{arm}.yaml").is_file()
    drawn = [
        part for row in facts["rows"] for kind in ("bands", "marks", "bars") for part in row["paper"].get(kind, ())
    ]
    assert {part["arm"] for part in drawn if "arm" in part} <= set(facts["arms"])


def test_bands_and_bars_hold_the_papers_ranges() -> None:
    reward, length, _ = ablation("selection")["rows"]
    assert [(b["low"], b["high"]) for b in reward["paper"]["bands"]] == [(0.75, 0.80), (0.45, 0.70)]
    assert [(b["low"], b["high"]) for b in length["paper"]["bands"]] == [(2300, 2800), (1800, 2000)]
    errors = ablation("mgrd")["rows"][2]["paper"]["bars"]
    assert [bar["value"] for bar in errors] == [6.76, 2.63, 0.02]


def test_an_unknown_ablation_names_those_there_are() -> None:
    with pytest.raises(MgrdError, match="think_reward, selection, surrogate, mgrd"):
        ablation("length")


def test_runs_without_the_figures_are_refused(tmp_path: Path) -> None:
    rl = arms_of(read_runs([rl_folder(tmp_path, "demo", 11)]))
    with pytest.raises(MgrdError, match=r"has no curve|made no policy update"):
        write_against("mgrd", rl, tmp_path / "out")
    with pytest.raises(MgrdError, match="made no policy update"):
        write_against("think_reward", rl, tmp_path / "out")
    old = rl_folder(tmp_path, "old", 11, eval={"before": {"sampled": 0.5}, "after": {"sampled": 0.5}})
    with pytest.raises(MgrdError, match="no accuracy by think length"):
        write_against("surrogate", arms_of(read_runs([old])), tmp_path / "out")


def test_the_command_draws_against_the_paper_only_into_a_folder(tmp_path: Path) -> None:
    runs = [str(path) for path in folders(tmp_path, "surrogate")]
    result = CliRunner().invoke(app, ["report", *runs, "--against", "surrogate"])
    assert result.exit_code == 2 and "--out FOLDER" in result.output.replace("\n", " ")
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["report", *runs, "--against", "surrogate", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert {"table.md", "against_surrogate.png", "against_surrogate.md"} <= {path.name for path in out.iterdir()}


def test_the_page_about_think_length_says_what_it_does_in_every_run(tmp_path: Path) -> None:
    arms = arms_of(read_runs(folders(tmp_path, "surrogate")))
    _, page = write_against("surrogate", arms, tmp_path / "out")
    row = "| ablate_surrogate | 12 | 60.0 ±1.0 | 12.5 | +6.0 [+2.0, +20.0] | 90 | 20 | 11 | helps |"
    assert row in page.read_text()
    for arm in arms:
        for run in arm.runs:
            run.report["eval"]["after"]["by_think_length"]["longer_minus_shorter_thinking"]["value"] = None
    _, page = write_against("surrogate", arms, tmp_path / "none")
    assert "| – | 90 |" in page.read_text()
