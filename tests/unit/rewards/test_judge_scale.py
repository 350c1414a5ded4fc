"""Levels and the strict reading of a judge's answer."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.endpoints.scale import answer_schema, make_levels, read_answer

LEVELS = make_levels(None)


def test_the_default_is_one_to_five_on_zero_to_one() -> None:
    assert [(level.label, level.score) for level in LEVELS] == [
        ("1", 0),
        ("2", 0.25),
        ("3", 0.5),
        ("4", 0.75),
        ("5", 1),
    ]
    assert all(level.meaning for level in LEVELS)


def test_labels_are_spread_evenly_and_scores_are_taken_as_given() -> None:
    assert [(level.label, level.score) for level in make_levels(["bad", "fair", "good"])] == [
        ("bad", 0.0), ("fair", 0.5), ("good", 1.0),
    ]  # fmt: skip
    given_scores = make_levels({5: 1, "harmful": -2.5, 1: 0.0}, {5: "all right"})
    assert [(level.label, level.score, level.meaning) for level in given_scores] == [
        ("harmful", -2.5, ""), ("1", 0.0, ""), ("5", 1.0, "all right"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("levels", "meanings", "reason"),
    [
        (["only"], None, "two labels"),
        (["Good", "good"], None, "no two alike"),
        (["a", "a"], None, "no two alike"),
        ({"a": float("nan"), "b": 1}, None, "no finite number"),
        ({"a": True, "b": 1}, None, "no finite number"),
        ({"a": "0", "b": 1}, None, "no finite number"),
        (["a\nb", "c"], None, "can't be the label"),
        (["", "c"], None, "can't be the label"),
        (["LEVEL: 4", "c"], None, "can't be the label"),
        ("12345", None, "list of labels"),
        (5, None, "list of labels"),
        (["a", "b"], {"c": "…"}, "no level"),
    ],
)
def test_levels_that_will_not_do_are_refused(levels: object, meanings: dict[str, str] | None, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make_levels(levels, meanings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "score", "rationale"),
    [
        ("It names the violin, as the reference does.\nLEVEL: 5", 1.0, "It names the violin, as the reference does."),
        ("LEVEL: 1", 0.0, ""),
        ("Two sentences.\n\nSee above.\n\nLEVEL:   3  \n\n", 0.5, "Two sentences.\n\nSee above."),
        ("<think>\nHm.\n</think>\nRight.\nLEVEL: 4", 0.75, "<think>\nHm.\n</think>\nRight."),
        ("First I say LEVEL 2 would fit.\nLEVEL: 4", 0.75, "First I say LEVEL 2 would fit."),
    ],
)
def test_a_last_line_is_read(content: str, score: float, rationale: str) -> None:
    judgement = read_answer(content, LEVELS, "line")
    assert (judgement.level.score, judgement.rationale) == (score, rationale)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "last line"),
        ("A good reply, I would say 5.", "last line"),
        ("LEVEL: 5\nI hope that helps!", "last line"),
        ("**LEVEL: 5**", "last line"),
        ("level: 5", "last line"),
        ("LEVEL 5", "last line"),
        ("LEVEL: 6", "none of the levels"),
        ("LEVEL: 4.5", "none of the levels"),
        ("LEVEL: 4/5", "none of the levels"),
        ("LEVEL: 4 or 5", "none of the levels"),
        ("LEVEL:", "none of the levels"),
        ("LEVEL: 2\nOn second thoughts:\nLEVEL: 4", "several levels"),
    ],
)
def test_a_line_in_any_other_form_is_unreadable(content: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_answer(content, LEVELS, "line")


@pytest.mark.parametrize(
    "content",
    [
        '{"rationale": "Right.", "level": "4"}',
        ' {"level": 4, "rationale": "Right."}\n',
        '<think>\nHm.\n</think>\n{"level": "4"}',
    ],
)
def test_a_json_answer_is_read(content: str) -> None:
    judgement = read_answer(content, LEVELS, "json")
    assert judgement.level.score == 0.75 and judgement.rationale in ("Right.", "<think>\nHm.")


@pytest.mark.parametrize(
    "content",
    ["", "4", "[4]", '{"level": "9"}', '{"rationale": "x"}', '{"level": true}', '{"level": 4.0}', '{"level": "4", "score": 1}',
     '```json\n{"level": "4"}\n```', '{"level": "4"} {"level": "5"}', '{"level": "4", "rationale": 3}', "[" * 5000],
)  # fmt: skip
def test_json_in_any_other_form_is_unreadable(content: str) -> None:
    with pytest.raises(ValueError):
        read_answer(content, LEVELS, "json")


@given(content=st.text(), form=st.sampled_from(["line", "json"]))
def test_whatever_a_judge_writes_is_a_level_or_unreadable(content: str, form: str) -> None:
    try:
        assert read_answer(content, LEVELS, form).level in LEVELS
    except ValueError as error:
        assert str(error)


@given(
    labels=st.lists(
        st.from_regex(r"[A-Za-z0-9][A-Za-z0-9 ]{0,8}[A-Za-z0-9]", fullmatch=True), min_size=2, unique_by=str.casefold
    ),
    data=st.data(),
    rationale=st.text(st.characters(exclude_categories=("C", "Z")), max_size=40),
)
def test_what_is_asked_for_is_read_in_every_form(labels: list[str], data: st.DataObject, rationale: str) -> None:
    levels = make_levels(labels)
    wanted = data.draw(st.sampled_from(levels))
    if not rationale.startswith("LEVEL:"):
        assert read_answer(f"{rationale}\nLEVEL: {wanted.label}", levels, "line").level == wanted
    answer = read_answer(json.dumps({"rationale": rationale, "level": wanted.label}), levels, "schema")
    assert answer.level == wanted and answer.rationale == rationale
    assert wanted.label in answer_schema(levels)["properties"]["level"]["enum"]
