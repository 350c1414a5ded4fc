"""An alarm leaves figures, a plot and trajectories; going on takes the mark of the pause away."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from PIL import Image

from orchestrator.config.schema import SentinelConfig
from orchestrator.errors import RunPaused
from orchestrator.sentinel_evidence import PAUSED_FILE, PLOT_FILE, StageWatch, clear, evidence, pause
from orchestrator.sentinels import watch
from orchestrator.stages.scoring import Scored
from rewards import Sample, Verdict
from rollout import AnswerKind, FinishReason, Question, Trajectory

CONFIG = SentinelConfig()


class Shelf:
    """Keeps what a tracker is given."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.files: dict[str, bytes] = {}
        self.set_tags: dict[str, object] = {}

    def text(self, name: str, content: str) -> None:
        self.texts[name] = content

    html = text

    def artifact(self, path: Path, name: str) -> None:
        self.files[name] = path.read_bytes()

    def tags(self, values: dict[str, object]) -> None:
        self.set_tags |= values


def records(last: float = 100.0) -> list[dict]:
    tokens = [250.0] * 12 + [last] * 8
    return [
        {"update": 101 + i, "metrics": {"think/tokens": v, "think/present": 0.5, "policy/entropy": 0.4}}
        for i, v in enumerate(tokens)
    ]


def scored() -> Scored:
    question = Question("q", "What <makes> this sound?", "dog", AnswerKind.EXACT)
    trajectory = Trajectory("t/1", "q", 0, (1,), (2,), (0.0,), (1,), (), FinishReason.STOP, "dog")
    sample = Sample("t/1", {"audio": []}, "dog", "I hear a dog.", "dog", True, True, 1, 1)
    return Scored(question, trajectory, sample, Verdict(True, 1.0, {"answer": 1.0}), 0, 0)


def paused(root: Path, shelf: Shelf) -> RunPaused:
    alarm = watch(records(), CONFIG)
    assert alarm is not None
    return pause(
        alarm,
        records(),
        [scored()],
        config=CONFIG,
        stage="t1.reinforce",
        root=root,
        tracker=shelf,  # type: ignore[arg-type]
    )


def test_the_pause_says_what_was_seen_where_the_figures_are_and_how_to_go_on(tmp_path: Path) -> None:
    text = str(paused(tmp_path, Shelf()))
    for words in (
        "t1.reinforce, policy update 120",
        "'think_length'",
        "fell from 250 tokens to 100 tokens",
        "think_present",
    ):
        assert words in text
    assert f"mgrd resume {tmp_path}" in text


def test_the_run_directory_holds_the_figures_until_the_run_goes_on(tmp_path: Path) -> None:
    paused(tmp_path, Shelf())
    left = json.loads((tmp_path / PAUSED_FILE).read_text())
    assert (left["state"], left["stage"], left["update"]) == ("paused", "t1.reinforce", 120)
    assert (left["sentinel"], left["checkpoint"]) == ("think_length", "update_000120")
    assert left["series"]["think/tokens"][0] == [101, 250.0]
    assert len(left["series"]["think/tokens"]) == len(left["series"]["think/present"]) == 20
    assert "policy/entropy" not in left["series"]
    assert left["thresholds"]["think_length"] == CONFIG.think_length
    clear(tmp_path)
    assert list(tmp_path.iterdir()) == []
    clear(tmp_path)  # a run that was not paused


def test_mlflow_gets_figures_plot_and_trajectories(tmp_path: Path) -> None:
    shelf = Shelf()
    paused(tmp_path, shelf)
    folder = "sentinels/update_000120"
    assert json.loads(shelf.texts[f"{folder}/evidence.json"]) == json.loads((tmp_path / PAUSED_FILE).read_text())
    assert "What &lt;makes&gt; this sound?" in shelf.texts[f"{folder}/trajectories.html"]
    assert shelf.files[f"{folder}/series.png"] == (tmp_path / PLOT_FILE).read_bytes()
    with Image.open(tmp_path / PLOT_FILE) as image:
        assert min(image.size) > 200
        assert len(set(image.convert("L").tobytes())) > 10  # something is drawn
    assert shelf.set_tags == {"mgrd.alarm": "think_length at policy update 120"}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_json_has_no_word_for_is_told_as_text_and_plotted_around(tmp_path: Path, value: float) -> None:
    rows = records(250.0)
    rows[-1]["metrics"]["policy/entropy"] = value
    alarm = watch(rows, CONFIG)
    assert alarm is not None
    left = evidence(alarm, rows, CONFIG, "reinforce")
    json.dumps(left, allow_nan=False)
    assert left["series"]["policy/entropy"][-1] == [120, str(value)]
    pause(alarm, rows[-1:], [scored()], config=CONFIG, stage="reinforce", root=tmp_path, tracker=Shelf())  # type: ignore[arg-type]
    assert (tmp_path / PLOT_FILE).stat().st_size > 1000


def test_a_stage_under_watch_notes_its_alarm_and_a_resumed_one_starts_anew(tmp_path: Path) -> None:
    guard = StageWatch([], CONFIG, "reinforce", tmp_path)
    written = []
    for record in records():
        guard.note(record)
        written.append(json.dumps(record))
        if guard.alarm:
            break
    assert guard.alarm is not None
    at = guard.alarm.evidence["update"]
    assert json.loads(written[-1])["alarm"]["name"] == "think_length"
    assert all("alarm" not in json.loads(row) for row in written[:-1])
    with pytest.raises(RunPaused, match=f"policy update {at}"):
        raise guard.pause([scored()], Shelf())  # type: ignore[arg-type]
    assert (tmp_path / PAUSED_FILE).exists()

    resumed = StageWatch([json.loads(row) for row in written], CONFIG, "reinforce", tmp_path)
    assert not (tmp_path / PAUSED_FILE).exists()
    for number in range(1, 31):  # as short as it was when it paused: seen and accepted
        resumed.note({"update": at + number, "metrics": {"think/tokens": 100.0}})
        assert resumed.alarm is None
    for number in range(31, 41):
        resumed.note({"update": at + number, "metrics": {"think/tokens": 10.0}})
        if resumed.alarm:
            break
    assert resumed.alarm is not None and resumed.alarm.evidence["think/tokens"]["best"] == 100.0


def test_an_update_that_is_done_again_meets_its_alarm_again(tmp_path: Path) -> None:
    rows = records()
    guard = StageWatch(rows[:-1], CONFIG, "reinforce", tmp_path)
    guard.note(rows[-1])
    assert guard.alarm is not None
    again = StageWatch(
        rows[:-1], CONFIG, "reinforce", tmp_path
    )  # killed before the checkpoint: its record is forgotten
    again.note({"update": rows[-1]["update"], "metrics": rows[-1]["metrics"]})
    assert again.alarm == guard.alarm
