"""The whole of distillation: a funnel that adds up, chains that say where they come from."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scored_responses import response

from orchestrator.distillation.caps import TaskBalance
from orchestrator.distillation.chains import DistilSettings, KeptChain, Provenance, distil
from orchestrator.distillation.filters import FilterRule, LengthBand
from orchestrator.stages.scoring import Scored

RULES = (
    FilterRule("correct", min=1.0),
    FilterRule("perceptions/true_share", min=1.0),
    FilterRule("judge", min=0.7, optional=True),
)
SETTINGS = DistilSettings(
    RULES, LengthBand(4, 48), near_duplicate=0.97, max_chains=2, balance=TaskBalance(max_ratio=2.0), seed=1
)
WHO = Provenance("t1", seed=17, iteration=2)
REASONS = [
    "invalid", "unfinished", "not_well_formed", "correct", "perceptions/true_share", "judge", "length", "duplicate",
    "near_duplicate", "over_question_cap", "over_task_cap", "kept",
]  # fmt: skip
TEXTS = ["Note 1 is about 440 Hz.", "note 1 is about 440 Hz", "Two beats.", "A flute, low.", "Three claps, then a dog."]
ROW = st.tuples(
    st.integers(0, 7), st.sampled_from(TEXTS), st.sampled_from([0.0, 1.0]), st.booleans(), st.integers(0, 12)
)


def made(rows: list[tuple[int, str, float, bool, int]]) -> list[list[Scored]]:
    groups: dict[int, list[Scored]] = {}
    for number, (q, text, right, invalid, tokens) in enumerate(rows):
        item = response(
            number,
            f"<think>\n{text}\n</think>\nfirst",
            question=f"q{q}",
            task=["word", "order", "count"][q % 3],
            components={"answer": right},
            invalid=invalid,
            tokens=tokens,
        )
        groups.setdefault(q, []).append(item)
    return list(groups.values())


GROUPS = st.lists(ROW, max_size=40).map(made)


@settings(deadline=None)
@given(GROUPS)
def test_every_response_is_kept_or_counted_once_over_all_and_by_task(groups: list[list[Scored]]) -> None:
    found = distil(groups, SETTINGS, WHO)
    asked = [item for group in groups for item in group]
    assert found.sampled == len(asked) == sum(found.funnel.values())
    assert list(found.funnel) == REASONS
    assert found.funnel["kept"] == len(found.kept)
    per_task = Counter(item.question.task for item in asked)
    assert {task: sum(counts.values()) for task, counts in found.by_task.items()} == per_task
    for reason in REASONS:
        assert sum(counts[reason] for counts in found.by_task.values()) == found.funnel[reason]
    assert Counter(chain.task for chain in found.kept) == Counter(found.kept_by_task)


@settings(deadline=None)
@given(GROUPS)
def test_what_is_kept_is_right_in_order_and_within_the_caps(groups: list[list[Scored]]) -> None:
    found = distil(groups, SETTINGS, WHO)
    order = {item.trajectory.id: i for i, item in enumerate(item for group in groups for item in group)}
    places = [order[chain.trajectory_id] for chain in found.kept]
    assert places == sorted(places)
    assert all(chain.components["answer"] == 1.0 and 4 <= chain.reasoning_tokens <= 48 for chain in found.kept)
    assert max(Counter(chain.question_id for chain in found.kept).values(), default=0) <= 2
    per_task = [count for count in found.kept_by_task.values() if count]
    assert not per_task or max(per_task) <= 2 * min(per_task)


@settings(deadline=None)
@given(GROUPS, st.integers(0, 3))
def test_the_order_of_the_questions_changes_nothing_but_the_order(groups: list[list[Scored]], seed: int) -> None:
    found = distil(groups, SETTINGS, WHO)
    assert found == distil(groups, SETTINGS, WHO)
    mixed = list(groups)
    random.Random(seed).shuffle(mixed)
    other = distil(mixed, SETTINGS, WHO)
    assert other.funnel == found.funnel and other.by_task == found.by_task
    assert {chain.trajectory_id for chain in other.kept} == {chain.trajectory_id for chain in found.kept}


def test_a_chain_carries_its_provenance_and_survives_json() -> None:
    item = response(5, version=9, components={"grounding/true": 1.0}, tokens=11)
    found = distil([[item]], SETTINGS, WHO)
    (chain,) = found.kept
    assert (chain.model, chain.seed, chain.iteration, chain.weights_version) == ("t1", 17, 2, 9)
    assert (chain.trajectory_id, chain.question_id, chain.task) == ("t/q/5", "q", "order")
    assert (chain.prompt_ids, chain.response_ids, chain.feature_keys) == ((1, 2), (7, 15), ("feature",))
    assert chain.components == item.verdict.components
    assert found.absent == {"judge": 1}
    assert KeptChain.from_json(chain.to_json()) == chain


def test_truth_filter_and_its_control_differ_by_that_rule_alone() -> None:
    groups = [[response(0, claims=(1, 2)), response(1, "<think>\nTwo beats.\n</think>\nfirst", claims=(2, 2))]]
    control = DistilSettings(RULES[:1])
    assert [c.trajectory_id for c in distil(groups, control, WHO).kept] == ["t/q/0", "t/q/1"]
    assert [c.trajectory_id for c in distil(groups, DistilSettings(RULES), WHO).kept] == ["t/q/1"]


def test_data_sets_answered_directly_neither_set_nor_meet_the_cap_of_a_task() -> None:
    def asked(task: str, count: int, dataset: str = "") -> list[Scored]:
        return [response(i, question=f"{task}{i}", task=task, dataset=dataset) for i in range(count)]

    balance = TaskBalance(max_ratio=2.0)
    audio = [*asked("word", 9), *asked("order", 3)]
    for hearing in (1, 20):
        both = [*audio[:5], *asked("self_cognition", hearing, "hearing_prompts"), *audio[5:]]
        found = distil([both], DistilSettings((), balance=balance, direct=("hearing_prompts",)), WHO)
        assert found.kept_by_task == {"word": 6, "order": 3, "self_cognition": hearing}
        assert found.funnel["over_task_cap"] == 3 and sum(found.funnel.values()) == len(both)
        kept = {chain.trajectory_id for chain in found.kept}
        assert [c.trajectory_id for c in found.kept] == [s.trajectory.id for s in both if s.trajectory.id in kept]


def test_two_responses_of_one_id_are_refused() -> None:
    with pytest.raises(ValueError, match="trajectory ids"):
        distil([[response(0)], [response(0)]], SETTINGS, WHO)


def test_nothing_in_nothing_out() -> None:
    found = distil([], SETTINGS, WHO)
    assert (found.kept, found.sampled, found.by_task) == ((), 0, {})
    assert set(found.funnel.values()) == {0}
