"""Columns of outcomes to verdicts, without any process."""

from __future__ import annotations

import math
from array import array
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards import JointTerm, RewardError, RewardSpec, RewardTerm, Sample, Verdict, compose
from rewards.assembly import Assembler
from rewards.outcomes import Column
from rewards.sandbox_wire import Outcome

TERMS = (
    RewardTerm("answer", 0.8, "audio"),
    RewardTerm("think", 0.2, "audio"),
    RewardTerm("answer", 1.0, "text"),
    RewardTerm("answer", 3.0, "any", dataset="special"),
)
SPEC = RewardSpec(TERMS, 1.0, 256, 1)
JOINT = RewardSpec(TERMS, 1.0, 256, 1, joint=(JointTerm("both", ("answer", "think"), "product", 0.5, "audio"),))
outcomes = st.one_of(
    st.builds(Outcome, st.floats(-9, 9), seconds=st.floats(0, 2)),
    st.builds(
        Outcome,
        st.floats(-9, 9),
        parts=st.dictionaries(st.sampled_from(["wer", "share"]), st.floats(-1, 1)),
        notes=st.text(max_size=5),
        seconds=st.floats(0, 2),
    ),
    st.builds(Outcome, st.none(), st.sampled_from(["raised ValueError: no", "timed out"]), notes=st.text(max_size=3)),
)


def sample(dataset: str = "", audio: bool = True) -> Sample:
    question = {"dataset": dataset, "audio": [{"path": "a.wav", "seconds": 1.0}] if audio else []}
    return Sample("t", question, "", "", "", True, True, 0, 0)


def by_hand(spec: RewardSpec, names: tuple[str, ...], row: tuple[Outcome, ...]) -> Verdict:
    """The same verdict from the constructor, one by one."""
    components: dict[str, float] = {n: o.score for n, o in zip(names, row, strict=True) if o.score is not None}
    scores = dict(components)
    parts = {f"{n}/{part}": value for n, o in zip(names, row, strict=True) for part, value in o.parts.items()}
    notes = {n: o.notes for n, o in zip(names, row, strict=True) if o.notes}
    reasons = [o.reason for o in row if o.score is None]
    if reasons:
        return Verdict(False, None, components | parts, "; ".join(reasons), notes)
    if spec.joint:
        components["both"] = components["answer"] * components["think"]
    return Verdict(True, compose(spec, scores, "audio"), components | parts, "", notes)


@given(st.sampled_from([SPEC, JOINT]), st.lists(st.tuples(outcomes, outcomes), max_size=12))
def test_verdicts_are_what_composing_each_by_hand_gives(spec: RewardSpec, rows: list[tuple[Outcome, Outcome]]) -> None:
    assembler = Assembler(spec)
    group = assembler.group_of(sample())
    columns = [Column.of([row[k] for row in rows]) for k in range(2)]
    for _ in range(2):  # the second time sums are known
        made = assembler.verdicts(group, columns)
        assert made == [by_hand(spec, group.names, row) for row in rows]
        for verdict, row in zip(made, rows, strict=True):
            assert verdict.seconds == {"answer": row[0].seconds, "think": row[1].seconds}


def test_which_terms_count_depends_on_modality_and_data_set() -> None:
    assembler = Assembler(SPEC)
    batch = [sample(), sample(audio=False), sample("special"), sample("special", audio=False), sample()]
    grouped = assembler.grouped(batch)
    assert [(group.terms, at) for group, at in grouped.items()] == [
        ((0, 1), [0, 4]),
        ((2,), [1]),
        ((1, 3), [2]),
        ((3,), [3]),
    ]


def test_a_sum_that_is_not_finite_is_invalid_with_the_reason() -> None:
    assembler = Assembler(RewardSpec((RewardTerm("answer", 1e300, "any"),), 1.0, 256, 1))
    group = assembler.group_of(sample())
    good, bad = assembler.verdicts(group, [Column.of([Outcome(1.0), Outcome(1e300)])])
    assert good.score == 1e300
    assert not bad.valid
    assert "the audio reward is inf" in bad.reason


def test_no_term_for_a_sample_is_invalid_with_the_reason() -> None:
    assembler = Assembler(RewardSpec((RewardTerm("answer", 1.0, "audio"),), 1.0, 256, 1))
    group = assembler.group_of(sample(audio=False))
    assert group.terms == ()
    assert "no reward term counts for text" in assembler.no_terms(group).reason


def test_what_came_from_the_cache_has_no_seconds() -> None:
    assembler = Assembler(SPEC)
    group = assembler.group_of(sample())
    think = Column(array("d", [0.5, 0.5]), array("d", [math.nan, 0.25]))
    made = assembler.verdicts(group, [Column.of([Outcome(1.0, seconds=0.5)] * 2), think])
    assert [verdict.seconds for verdict in made] == [{"answer": 0.5}, {"answer": 0.5, "think": 0.25}]


def test_verdicts_share_nothing() -> None:
    assembler = Assembler(SPEC)
    first, second = assembler.verdicts(assembler.group_of(sample()), [Column.of([Outcome(1.0)] * 2)] * 2)
    first.components["answer"] = 7.0
    first.notes["answer"] = "x"
    first.seconds["answer"] = 7.0
    assert (second.components["answer"], second.notes, second.seconds["answer"]) == (1.0, {}, 0.0)


@given(st.lists(outcomes, max_size=9), st.integers(1, 3))
def test_columns_are_taken_apart_and_put_together(drawn: list[Outcome], step: int) -> None:
    drawn = drawn[: len(drawn) // step * step]
    whole = Column.of(drawn)
    together = Column.empty(len(drawn))
    for first in range(step):
        together.place(whole.part(first, step), range(first, len(drawn), step))
    assert [described(together, i) for i in range(len(drawn))] == [described(whole, i) for i in range(len(drawn))]
    behind = Column.empty(0)
    behind.extend(whole)
    behind.extend(whole)
    assert [described(behind, len(drawn) + i) for i in range(len(drawn))] == [
        described(whole, i) for i in range(len(drawn))
    ]


def described(column: Column, position: int) -> Any:
    return repr(column.scores[position]), repr(column.seconds[position]), column.odd.get(position)


def test_a_planned_group_without_columns_is_a_mistake() -> None:
    assembler = Assembler(SPEC)
    with pytest.raises(ValueError, match="no columns"):
        assembler.verdicts(assembler.group_of(sample()), [])
    with pytest.raises(RewardError):
        compose(SPEC, {}, "audio")
