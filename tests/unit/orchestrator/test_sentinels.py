"""Each sentinel sees its collapse, none sees one in runs that went well, and a pause is not repeated without new evidence."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config.schema import SentinelConfig
from orchestrator.sentinels import ALARM, SENTINELS, Alarm, watch, watched
from orchestrator.stages.metrics import update_metrics
from orchestrator.stages.scoring import Scored
from rewards import RewardSpec, RewardTerm, Sample, Verdict
from rollout import AnswerKind, FinishReason, Question, Trajectory

DEMO = sorted((Path(__file__).parents[3] / "docs/results/demo").glob("*.updates.jsonl"))
CONFIG = SentinelConfig()
GOOD = {
    "policy/mismatch_max": 1e-5,
    "policy/mismatch_kl": 1e-9,
    "probe/max_abs_diff": 1e-5,
    "invalid_share": 0.0,
    "response/truncated": 0.02,
    "response/tokens": 300.0,
    "think/tokens": 250.0,
    "think/present": 0.98,
    "policy/entropy": 0.4,
    "reward/mixed_questions": 0.7,
    "reward/mean": 0.7,
    "accuracy": 0.65,
    "responses/repeated_share": 0.1,
    "responses/stuck_share": 0.1,
    "think/copied_share": 0.0,
}


def stage(updates: int = 60, first: int = 1, **curves: list[float]) -> list[dict]:
    """Records of a stage that goes well but for the curves given (names with `__` for `/`)."""
    named = {name.replace("__", "/"): values for name, values in curves.items()}
    return [
        {"update": first + i, "metrics": GOOD | {name: values[i] for name, values in named.items()}}
        for i in range(updates)
    ]


def first_alarm(records: list[dict], config: SentinelConfig = CONFIG) -> Alarm | None:
    """As a run meets it: asked after every policy update, stopped by the first."""
    return next((alarm for n in range(1, len(records) + 1) if (alarm := watch(records[:n], config))), None)


def line(start: float, end: float, updates: int = 60, since: int = 0) -> list[float]:
    """`start` until `since`, then straight to `end`."""
    return [start] * since + [float(v) for v in np.linspace(start, end, updates - since)]


@pytest.mark.parametrize("path", DEMO, ids=lambda path: path.name)
def test_the_recorded_runs_raise_no_alarm_at_any_policy_update(path: Path) -> None:
    records = [json.loads(row) for row in path.read_text().splitlines()]
    assert len(records) == 130
    assert first_alarm(records) is None


def test_the_papers_think_length_without_the_format_reward_alarms_between_30_and_60() -> None:
    """Step-Audio-R1, section 5: 3,000 tokens, a sharp fall after policy update 30, under 1,500 by 60."""
    alarm = first_alarm(stage(think__tokens=line(3000, 2800, 30) + line(2800, 1450, 30)))
    assert alarm is not None and alarm.name == "think_length"
    assert 30 < alarm.evidence["update"] <= 60
    assert alarm.evidence["think/tokens"]["now"] <= 0.6 * alarm.evidence["think/tokens"]["best"]
    assert "think/tokens fell from" in alarm.reason


@pytest.mark.parametrize(("low", "high"), [(2300, 2800), (1800, 2000)])
def test_the_papers_steady_think_lengths_raise_no_alarm(low: float, high: float) -> None:
    values = np.random.default_rng(0).uniform(low, high, 100)
    assert first_alarm(stage(100, think__tokens=list(values))) is None


def test_a_collapse_after_growth_is_held_against_the_longest_reasoning() -> None:
    alarm = first_alarm(stage(90, think__tokens=line(1000, 3000, 60) + line(3000, 1200, 30)))
    assert alarm is not None and alarm.name == "think_length"


COLLAPSES = {
    "mismatch": {"policy__mismatch_max": line(1e-5, 0.5, since=30)},
    "invalid": {"invalid_share": line(0, 0.2, since=30)},
    "truncated": {"response__truncated": line(0.02, 0.9, since=30)},
    "think_length": {"think__tokens": line(250, 10, since=30)},
    "entropy": {"policy__entropy": line(0.4, 0.001, since=30)},
    "reward_without_accuracy": {"reward__mean": line(0.7, 0.9, since=30), "accuracy": line(0.65, 0.3, since=30)},
    "repeated": {"responses__repeated_share": line(0.1, 1, since=30)},
    "copied": {"think__copied_share": line(0, 1, since=30)},
}


def test_there_is_a_collapse_for_every_sentinel() -> None:
    assert set(COLLAPSES) == {sentinel.name for sentinel in SENTINELS}


@pytest.mark.parametrize("name", COLLAPSES)
def test_a_collapse_is_seen_by_its_sentinel_with_the_update_and_the_figures(name: str) -> None:
    alarm = first_alarm(stage(**COLLAPSES[name]))
    assert alarm is not None and alarm.name == name
    assert 30 < alarm.evidence["update"] <= 60
    assert any(isinstance(alarm.evidence.get(metric), dict) for metric in alarm.evidence["metrics"])
    assert alarm.evidence["advice"]
    json.dumps(alarm.evidence)


@pytest.mark.parametrize("name", COLLAPSES)
@pytest.mark.parametrize("off", [0.0, None])
def test_a_threshold_of_zero_or_null_turns_its_sentinel_off(name: str, off: float | None) -> None:
    sentinel = next(s for s in SENTINELS if s.name == name)
    assert first_alarm(stage(**COLLAPSES[name]), replace(CONFIG, **dict.fromkeys(sentinel.keys, off))) is None


@pytest.mark.parametrize(
    ("metric", "key"),
    [
        ("policy__mismatch_max", "mismatch_max"),
        ("policy__mismatch_kl", "mismatch_kl"),
        ("probe__max_abs_diff", "mismatch_probe"),
        ("responses__stuck_share", "repeated"),
    ],
)
def test_each_metric_of_a_sentinel_can_raise_it_alone(metric: str, key: str) -> None:
    alarm = first_alarm(stage(**{metric: line(0, 1)}))
    assert alarm is not None and alarm.evidence[metric.replace("__", "/")]["now"] > 0
    assert first_alarm(stage(**{metric: line(0, 1)}), replace(CONFIG, **{key: 0})) is None


def test_reward_that_falls_with_accuracy_or_rises_with_it_is_no_hacking() -> None:
    falls = line(0.7, 0.2)
    assert first_alarm(stage(reward__mean=falls, accuracy=falls)) is None
    assert first_alarm(stage(reward__mean=line(0.5, 0.9), accuracy=line(0.5, 0.9))) is None


def test_truncation_that_is_unlearnt_and_repetition_that_was_there_raise_no_alarm() -> None:
    assert first_alarm(stage(response__truncated=line(0.9, 0.4))) is None
    assert first_alarm(stage(response__truncated=[0.5] * 60)) is not None
    assert first_alarm(stage(responses__repeated_share=line(0.6, 0.75))) is None  # of 0.4 free at best, 0.25 are left
    assert first_alarm(stage(responses__repeated_share=line(0.6, 0.95))) is not None


def test_warm_up_is_silent_and_one_policy_update_is_no_collapse() -> None:
    broken = [0.5] * 9
    assert first_alarm(stage(9, invalid_share=broken, policy__mismatch_max=broken)) is None
    assert first_alarm(stage(10, invalid_share=[0.5] * 10)) is not None
    once = [0.04] * 30 + [0.09] + [0.04] * 29
    assert first_alarm(stage(invalid_share=once)) is None


def test_a_probe_that_is_not_due_every_time_is_looked_at_over_the_records_that_have_it() -> None:
    records = stage(60, probe__max_abs_diff=line(6e-5, 9e-5))
    for record in records:
        if record["update"] % 10:
            del record["metrics"]["probe/max_abs_diff"]
    alarm = first_alarm(records)
    assert alarm is not None and alarm.evidence["update"] == 50  # the fifth probe: a whole window


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_no_number_alarms_at_once_and_in_warm_up(value: float) -> None:
    alarm = first_alarm(stage(3, policy__entropy=[0.4, 0.4, value]))
    assert alarm is not None
    assert (alarm.name, alarm.evidence["update"]) == ("entropy", 3)
    assert "not a finite number" in alarm.reason


def test_the_first_sentinel_in_order_wins() -> None:
    both = COLLAPSES["copied"] | COLLAPSES["mismatch"]
    alarm = watch(stage(**both), CONFIG)
    assert alarm is not None and alarm.name == "mismatch"


def test_a_resumed_run_is_silent_until_its_own_windows_show_it_again() -> None:
    records = stage(**COLLAPSES["think_length"])
    alarm = first_alarm(records)
    assert alarm is not None
    at = alarm.evidence["update"]
    records[at - 1][ALARM] = {"name": alarm.name}
    steady = [{"update": at + i, "metrics": records[at - 1]["metrics"]} for i in range(1, 41)]
    assert watch(records[:at], CONFIG) is None
    assert all(watch(records[:at] + steady[:n], CONFIG) is None for n in range(1, 41))
    worse = stage(40, first=at + 1, think__tokens=line(100, 1, 40))
    again = next(a for n in range(1, 41) if (a := watch(records[:at] + worse[:n], CONFIG)))
    assert again.evidence["update"] >= at + CONFIG.warmup
    assert again.evidence["looked_at"][0] == at + 1


values = st.floats(min_value=0.0, max_value=1.0, allow_subnormal=False)


@given(
    level=st.fixed_dictionaries(
        {
            **dict.fromkeys(
                ("reward__mean", "accuracy", "responses__repeated_share", "responses__stuck_share"), values
            ),
            **dict.fromkeys(("think__copied_share", "policy__entropy"), values.map(lambda v: v / 2)),
            "response__truncated": st.floats(0, allow_subnormal=False, max_value=CONFIG.truncated),
            "invalid_share": st.floats(0, allow_subnormal=False, max_value=CONFIG.invalid),
            "think__tokens": st.floats(0, allow_subnormal=False, max_value=10_000),
        }
    ),
    updates=st.integers(1, 40),
    window=st.integers(1, 12),
    warmup=st.integers(0, 12),
)
@settings(max_examples=60, deadline=None)
def test_constant_curves_within_the_limits_never_alarm(level: dict, updates: int, window: int, warmup: int) -> None:
    config = replace(CONFIG, window=window, warmup=warmup)
    level |= {"responses__repeated_share": level["responses__repeated_share"] / 2}
    level |= {"responses__stuck_share": level["responses__stuck_share"] / 2}
    records = stage(updates, **{name: [value] * updates for name, value in level.items()})
    assert first_alarm(records, config) is None


@given(data=st.data(), updates=st.integers(1, 25))
@settings(max_examples=60, deadline=None)
def test_any_curves_give_the_same_answer_twice_and_an_alarm_names_what_it_saw(
    data: st.DataObject, updates: int
) -> None:
    curve = st.lists(st.floats(0, allow_subnormal=False, max_value=1), min_size=updates, max_size=updates)
    records = stage(updates, **{name.replace("/", "__"): data.draw(curve) for name in GOOD})
    alarm = watch(records, CONFIG)
    assert alarm == watch(json.loads(json.dumps(records)), CONFIG)
    if alarm is not None:
        assert updates >= CONFIG.warmup
        assert alarm.evidence["update"] == updates
        assert set(alarm.evidence["metrics"]) <= set(watched())


@given(shift=st.floats(0.0, allow_subnormal=False, max_value=0.3), updates=st.integers(20, 40))
@settings(max_examples=30, deadline=None)
def test_a_deeper_fall_of_the_think_length_never_silences_the_alarm(shift: float, updates: int) -> None:
    falls = line(250, 100, updates)
    deeper = [v * (1 - shift * i / updates) for i, v in enumerate(falls)]
    assert watch(stage(updates, think__tokens=falls), CONFIG) is not None
    assert watch(stage(updates, think__tokens=deeper), CONFIG) is not None


def test_every_watched_metric_is_one_that_a_policy_update_logs() -> None:
    recorded = json.loads(DEMO[0].read_text().splitlines()[0])["metrics"]
    logged = set(recorded) | set(update_metrics([_scored(0), _scored(1)], {}, SPEC))
    assert set(watched()) <= logged
    assert set(GOOD) == set(watched())


SPEC = RewardSpec((RewardTerm("answer", 1.0, "any"),), 1.0, 256, 1)


def _scored(number: int) -> Scored:
    question = Question(f"q{number // 2}", "Which?", f"dog {number}", AnswerKind.EXACT)
    trajectory = Trajectory(f"t/{number}", question.id, 0, (1,), (2,), (0.0,), (1,), (), FinishReason.STOP, "x")
    sample = Sample(f"t/{number}", {"audio": []}, "x", "I hear a dog.", "dog", True, True, 1, 1)
    return Scored(question, trajectory, sample, Verdict(True, 1.0, {"answer": 1.0}), 0, 0)
