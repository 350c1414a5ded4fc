"""What the tables of the service say: times, curves, progress, the next steps."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_experiments import experiment

from orchestrator.service.messages import Progress, State, Wanted
from orchestrator.service_cli import words
from orchestrator.service_cli.token import seconds

FINITE = st.floats(-1e6, 1e6)


@settings(max_examples=40, deadline=None)
@given(st.lists(FINITE, min_size=1, max_size=200), st.integers(1, 60))
def test_a_sparkline_has_a_bar_a_column_and_reaches_both_ends(values: list[float], width: int) -> None:
    line = words.sparkline(values, width)
    assert len(line) == min(width, len(values))
    assert set(line) <= set(words.BARS)
    if len(set(line)) > 1:
        assert words.BARS[0] in line and words.BARS[-1] in line


def test_a_rising_curve_rises_and_a_flat_one_is_flat() -> None:
    assert words.sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == words.BARS
    assert words.sparkline([0.5, 0.5, 0.5]) == "▄▄▄"
    assert words.sparkline([]) == ""


@pytest.mark.parametrize(
    ("given_s", "text"),
    [(None, ""), (0.4, "0 s"), (99, "99 s"), (100, "2 min"), (7500, "2 h 05 min"), (200_000, "2 d 7 h")],
)
def test_durations_are_short(given_s: float | None, text: str) -> None:
    assert words.duration(given_s) == text


def test_progress_names_stage_and_update() -> None:
    progress = Progress(stage="t1.reinforce", stages_done=2, stages_total=7, update=12, updates_total=130)
    assert words.progress(experiment(progress=progress)) == "t1.reinforce 3/7, update 12/130"
    assert words.progress(experiment()) == ""


@pytest.mark.parametrize("state", list(State))
def test_every_state_says_what_can_be_done_next(state: State) -> None:
    steps = words.next_steps(experiment(state=state))
    assert steps and all(step.startswith("mgrd ") and "demo-4f0c21" in step for step in steps)
    assert (any(" resume " in step for step in steps)) == (state in (State.PAUSED, State.FAILED, State.CANCELLED))


def test_what_is_asked_for_and_not_done_yet_is_shown() -> None:
    assert words.state(experiment(wanted=Wanted.CANCEL)).endswith("→ cancel")


def test_times_of_tokens() -> None:
    assert [seconds(text) for text in ("12h", "30d", "0")] == [43_200.0, 2_592_000.0, 0.0]
    with pytest.raises(Exception, match="no time"):
        seconds("soon")
