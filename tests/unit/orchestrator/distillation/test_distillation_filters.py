"""Filters: one response, one reason, in the declared order."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scored_responses import response

from orchestrator.distillation.filters import FilterRule, LengthBand, component, decide, funnel
from orchestrator.errors import ConfigError
from orchestrator.stages.scoring import Scored

RULES = (
    FilterRule("answer", min=1.0),
    FilterRule("grounding", min=0.5),
    FilterRule("repetition", max=0.2, optional=True),
)
BAND = LengthBand(4, 48)
SHARE = st.sampled_from([0.0, 0.5, 1.0])
RESPONSES = st.lists(
    st.builds(
        lambda right, grounded, repeated, invalid, finished, tokens, text: response(
            0,
            text,
            components={"answer": right, "grounding": grounded}
            | ({} if repeated is None else {"repetition": repeated}),
            invalid=invalid,
            finished=finished,
            tokens=tokens,
        ),
        SHARE,
        SHARE,
        st.none() | SHARE,
        st.booleans(),
        st.booleans(),
        st.integers(0, 60),
        st.sampled_from(
            ["<think>\nA tone.\n</think>\nfirst", "<think>\n\n</think>\nfirst", "first", "<think>\nA tone.\n</think>\n"]
        ),
    ),
    max_size=25,
)


@settings(deadline=None)
@given(RESPONSES, st.permutations(RULES))
def test_the_funnel_adds_up_and_names_every_filter_in_its_order(items: list[Scored], rules: list[FilterRule]) -> None:
    decisions = [decide(item, rules, BAND) for item in items]
    counts = funnel(decisions, rules)
    assert sum(counts.values()) == len(items)
    assert counts["kept"] == sum(d.kept for d in decisions)
    named = [rule.component for rule in rules]
    assert list(counts) == ["invalid", "unfinished", "not_well_formed", *named, "length", "kept"]
    assert all(d.kept == (d.reason == "kept") for d in decisions)


@settings(deadline=None)
@given(RESPONSES, st.permutations(RULES))
def test_who_is_kept_does_not_depend_on_the_order_of_the_rules(items: list[Scored], rules: list[FilterRule]) -> None:
    assert [decide(i, rules, BAND).kept for i in items] == [decide(i, RULES, BAND).kept for i in items]


@settings(deadline=None)
@given(RESPONSES)
def test_what_is_kept_passes_everything(items: list[Scored]) -> None:
    for item in items:
        if decide(item, RULES, BAND).kept:
            assert item.correct and item.thinks and item.sample.finished and item.sample.reply
            assert item.verdict.components["grounding"] >= 0.5
            assert 4 <= item.sample.reasoning_tokens <= 48


@settings(deadline=None)
@given(RESPONSES)
def test_a_further_rule_never_keeps_more(items: list[Scored]) -> None:
    before = {i for i, item in enumerate(items) if decide(item, RULES[:1], None).kept}
    after = {i for i, item in enumerate(items) if decide(item, RULES, BAND).kept}
    assert after <= before


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (response(0), "kept"),
        (response(0, invalid=True, finished=False), "invalid"),
        (response(0, finished=False), "unfinished"),
        (response(0, "first"), "not_well_formed"),
        (response(0, "<think>\n\n</think>\nfirst"), "not_well_formed"),
        (response(0, "<think>\nA tone.\n</think>\n"), "not_well_formed"),
        (response(0, components={"answer": 0.0, "grounding": 0.0}), "answer"),
        (response(0, components={"grounding": 0.25}, tokens=99), "grounding"),
        (response(0, components={"repetition": 0.5}), "repetition"),
        (response(0, tokens=3), "length"),
        (response(0, tokens=49), "length"),
        (response(0, tokens=48), "kept"),
    ],
)
def test_the_first_filter_that_failed_is_the_reason(item: Scored, reason: str) -> None:
    assert decide(item, RULES, BAND).reason == reason


def test_a_missing_component_is_a_reason_of_its_own_unless_the_rule_is_optional() -> None:
    needed, optional = FilterRule("judge", min=0.7), FilterRule("judge", min=0.7, optional=True)
    assert decide(response(0), [needed]).reason == "judge_missing"
    lenient = decide(response(0), [optional])
    assert (lenient.kept, lenient.absent) == (True, ("judge",))
    assert decide(response(0, components={"judge": 0.5}), [optional]).reason == "judge"
    counts = funnel([decide(response(0), [needed])], [needed])
    assert counts["judge_missing"] == 1 and sum(counts.values()) == 1


def test_a_rule_leaves_out_the_data_sets_it_does_not_apply_to() -> None:
    rule = FilterRule("answer", min=1.0, except_datasets=("hearing_prompts",))
    wrong = {"answer": 0.0}
    assert decide(response(0, components=wrong, dataset="hearing_prompts"), [rule]).kept
    assert not decide(response(0, components=wrong, dataset="acoustic_qa"), [rule]).kept
    assert not decide(response(0, components=wrong), [rule]).kept


def test_bounds_are_included() -> None:
    rule = FilterRule("x", min=0.25, max=0.75)
    assert [rule.passes(value) for value in (0.2, 0.25, 0.5, 0.75, 0.8)] == [False, True, True, True, False]


def test_derived_components_are_shares_of_true_statements_and_correctness() -> None:
    parts = {"grounding/true": 3.0, "grounding/checked": 4.0}
    item = response(0, components=parts, claims=(1, 2))
    assert component(item, "grounding/true_share") == 0.75
    assert component(item, "perceptions/true_share") == 0.5
    assert component(item, "perceptions/stated") == 2.0
    assert component(item, "correct") == 1.0
    assert component(response(0, claims=(0, 0)), "perceptions/true_share") == 0.0
    assert (
        component(response(0, components={"grounding/true": 0.0, "grounding/checked": 0.0}), "grounding/true_share")
        == 1.0  # nothing false; the rule `grounding` is about how much is stated
    )
    assert component(response(0, truth=False), "perceptions/true_share") is None
    assert component(response(0), "grounding/true_share") is None


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("<think>\nA low tone.\n</think>\nI hear a flute.", 1.0),
        ("<think>\nI hear a dog.\n</think>\nI hear a flute.", 0.5),
        ("<think>\n\n</think>\nI hear a flute, then a dog.", 0.5),
        ("<think>\n\n</think>\nA flute.", 0.0),
    ],
)
def test_the_share_of_a_response_is_about_reasoning_and_reply(text: str, share: float) -> None:
    assert component(response(0, text), "response/true_share") == share
    assert component(response(0, text, truth=False), "response/true_share") is None


@pytest.mark.parametrize("bounds", [{}, {"min": 1.0, "max": 0.0}, {"min": math.nan}])
def test_bounds_that_make_no_sense_are_refused(bounds: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="'answer'"):
        FilterRule("answer", **bounds)  # type: ignore[arg-type]


def test_a_band_that_makes_no_sense_is_refused_and_nan_never_passes() -> None:
    for low, high in [(5, 4), (-1, 3)]:
        with pytest.raises(ConfigError, match="length band"):
            LengthBand(low, high)
    assert not FilterRule("x", min=0.0).passes(math.nan) and not FilterRule("x", max=0.0).passes(math.nan)


def test_counting_agrees_with_a_plain_counter() -> None:
    items = [response(0), response(0, tokens=0), response(0, tokens=1), response(0, invalid=True)]
    decisions = [decide(item, RULES, BAND) for item in items]
    assert {k: v for k, v in funnel(decisions, RULES).items() if v} == Counter(d.reason for d in decisions)
