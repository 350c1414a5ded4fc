"""The weighted sum by modality."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards import JointTerm, RewardError, RewardSpec, RewardTerm, check_spec, compose, modality_of

PAPER = RewardSpec(
    (RewardTerm("answer", 1.0, "text"), RewardTerm("answer", 0.8, "audio"), RewardTerm("think_present", 0.2, "audio")),
    timeout_s=2.0,
    memory_mb=256,
    workers=1,
)
names = st.sampled_from(["answer", "think_present", "think_length", "format"])
weights = st.floats(-4, 4)
scores = st.fixed_dictionaries(
    {name: st.floats(-1, 1) for name in ("answer", "think_present", "think_length", "format")}
)
specs = st.lists(st.tuples(names, weights), min_size=1, max_size=4, unique_by=lambda t: t[0]).map(
    lambda terms: RewardSpec(tuple(RewardTerm(n, w, "any") for n, w in terms), 1.0, 256, 1)
)


def test_the_papers_weights() -> None:
    components = {"answer": 1.0, "think_present": 0.0}
    assert compose(PAPER, components, "audio") == 0.8
    assert compose(PAPER, components, "text") == 1.0
    assert compose(PAPER, {"answer": 1.0, "think_present": 1.0}, "audio") == 1.0
    assert compose(PAPER, {"answer": 0.0, "think_present": 1.0}, "audio") == 0.2


@given(specs, scores)
def test_the_sum_does_not_depend_on_the_order_of_terms(spec: RewardSpec, components: dict[str, float]) -> None:
    turned = dataclasses.replace(spec, terms=spec.terms[::-1])
    assert compose(spec, components, "audio") == compose(turned, components, "audio")


@given(specs, scores, st.sampled_from(["audio", "text"]))
def test_the_sum_is_linear_in_each_component(spec: RewardSpec, components: dict[str, float], modality: str) -> None:
    term = spec.terms[0]
    without = compose(spec, components | {term.name: 0.0}, modality)
    one = compose(spec, components | {term.name: 1.0}, modality)
    assert math.isclose(one - without, term.weight, abs_tol=1e-9)
    half = compose(spec, components | {term.name: 0.5}, modality)
    assert math.isclose(half, (one + without) / 2, abs_tol=1e-9)


@given(specs, scores)
def test_terms_of_the_other_modality_change_nothing(spec: RewardSpec, components: dict[str, float]) -> None:
    other = tuple(RewardTerm(name, 3.0, "text") for name in ("elsewhere", "nowhere"))
    wider = dataclasses.replace(spec, terms=spec.terms + other)
    assert compose(wider, components, "audio") == compose(spec, components, "audio")


def test_a_missing_component_is_an_error_not_a_zero() -> None:
    with pytest.raises(RewardError, match="no component think_present"):
        compose(PAPER, {"answer": 1.0}, "audio")


def test_a_modality_without_terms_is_an_error() -> None:
    only_text = dataclasses.replace(PAPER, terms=PAPER.terms[:1])
    with pytest.raises(RewardError, match="no reward term counts for audio"):
        compose(only_text, {"answer": 1.0}, "audio")
    with pytest.raises(RewardError, match="unknown modality 'video'"):
        compose(PAPER, {"answer": 1.0}, "video")


def test_a_component_that_is_not_finite_never_becomes_a_reward() -> None:
    with pytest.raises(RewardError, match="nan"):
        compose(PAPER, {"answer": math.nan, "think_present": 1.0}, "audio")


def test_modality_follows_from_the_recordings() -> None:
    assert modality_of({"audio": [{"path": "/a.wav"}]}) == "audio"
    assert modality_of({"audio": []}) == modality_of({}) == "text"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"terms": ()}, "no term"),
        ({"timeout_s": 0.0}, "time limit"),
        ({"timeout_s": math.nan}, "time limit"),
        ({"memory_mb": 8}, "memory limit"),
        ({"workers": 0}, "worker"),
        ({"terms": (RewardTerm("answer", 1.0, "video"),)}, "modality 'video'"),
        ({"terms": (RewardTerm("answer", math.inf, "any"),)}, "weight"),
        ({"terms": (RewardTerm("answer", 1.0, "any"), RewardTerm("answer", 1.0, "text"))}, "counts twice for text"),
    ],
)
def test_a_specification_that_can_not_work_is_refused(change: dict[str, object], message: str) -> None:
    check_spec(PAPER)
    with pytest.raises(RewardError, match=message):
        check_spec(dataclasses.replace(PAPER, **change))  # type: ignore[arg-type]


def test_a_term_of_a_data_set_stands_in_for_the_general_one() -> None:
    special = RewardTerm("think_present", 0.5, "any", dataset="mmau")
    spec = dataclasses.replace(PAPER, terms=(*PAPER.terms, special))
    check_spec(spec)
    components = {"answer": 1.0, "think_present": 1.0}
    assert compose(spec, components, "audio", "mmau") == 1.3
    assert compose(spec, components, "audio", "other") == compose(spec, components, "audio") == 1.0
    assert compose(spec, components, "text", "mmau") == 1.5  # text has no general term of that name to replace


@pytest.mark.parametrize(("how", "value"), [("product", 0.25), ("least", 0.25), ("mean", 0.625)])
def test_a_joint_term_is_made_of_the_components_of_others(how: str, value: float) -> None:
    joint = JointTerm("both", ("answer", "think_present"), how, 2.0, "audio")
    spec = dataclasses.replace(PAPER, joint=(joint,))
    check_spec(spec)
    components = {"answer": 0.25, "think_present": 1.0}
    assert compose(spec, components, "audio") == pytest.approx(0.8 * 0.25 + 0.2 + 2 * value)
    assert compose(spec, components, "text") == 0.25


@given(scores)
def test_a_product_of_scores_in_0_to_1_never_exceeds_the_least(components: dict[str, float]) -> None:
    components = {name: abs(value) for name, value in components.items()}
    product, least = (
        dataclasses.replace(PAPER, joint=(JointTerm("both", ("answer", "think_present"), how, 1.0, "audio"),))
        for how in ("product", "least")
    )
    assert compose(product, components, "audio") <= compose(least, components, "audio") + 1e-12


@pytest.mark.parametrize(
    ("joint", "message"),
    [
        (JointTerm("both", ("answer", "pitch"), "product", 1.0, "audio"), "'pitch' is no term of audio questions"),
        (JointTerm("both", ("answer",), "product", 1.0, "audio"), "two terms or more"),
        (JointTerm("both", ("answer", "think_present"), "sum", 1.0, "audio"), "unknown way 'sum'"),
        (JointTerm("answer", ("answer", "think_present"), "mean", 1.0, "audio"), "counts twice"),
        (JointTerm("both", ("answer", "think_present"), "mean", math.nan, "audio"), "weight"),
    ],
)
def test_a_joint_term_that_cannot_work_is_refused(joint: JointTerm, message: str) -> None:
    with pytest.raises(RewardError, match=message):
        check_spec(dataclasses.replace(PAPER, joint=(joint,)))
