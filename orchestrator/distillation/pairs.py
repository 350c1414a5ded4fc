"""Preference pairs about hearing, from the model's own samples (Step-Audio-R1, section 6.3): one response that uses its hearing,
one to the same prompt that denies it.

Neighbours: `rewards.functions.cognition` finds denials, DPO trains on the pairs. Invariants: pure; a pair has both sides and one
prompt; each side says which model sampled it; no two pairs of a question are the same.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.distillation.filters import response_true_share
from orchestrator.errors import MgrdError
from orchestrator.seeds import derive
from orchestrator.stages.plans import mean_and_error
from orchestrator.stages.scoring import Scored

SELF_COGNITION = "self_cognition"
USES_HEARING = 1.0


class PairError(MgrdError):
    """Pairs can't be mined from these responses."""


@dataclass(frozen=True, slots=True)
class Side:
    """Where one response of a pair comes from. model: checkpoint's name; weights_version: the oldest that sampled a token."""

    model: str
    weights_version: int
    trajectory_id: str
    text: str


@dataclass(frozen=True, slots=True)
class MinedPair:
    """prompt_ids: expanded, shared by both; chosen_ids, rejected_ids: responses as sampled, end token included."""

    question_id: str
    prompt_ids: tuple[int, ...]
    feature_keys: tuple[str, ...]
    chosen_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]
    chosen: Side
    rejected: Side

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, line: str | bytes) -> MinedPair:
        """Raises ValueError for text that is not JSON, TypeError or KeyError for an unknown or missing field."""
        data: dict[str, Any] = json.loads(line)
        for name in ("prompt_ids", "feature_keys", "chosen_ids", "rejected_ids"):
            data[name] = tuple(data[name])
        return cls(**(data | {"chosen": Side(**data["chosen"]), "rejected": Side(**data["rejected"])}))


@dataclass(frozen=True, slots=True)
class Mined:
    """pairs_from: pairs by the model that sampled their bad side; other_prompt: bad responses of earlier models to a prompt of
    other tokens, which can't be paired."""

    pairs: tuple[MinedPair, ...]
    pairs_from: dict[str, int]
    other_prompt: int = 0


def mine_pairs(groups: Sequence[Sequence[Scored]], *, model: str, max_per_question: int, seed: int) -> list[MinedPair]:
    """Pairs of the groups (each: the responses of `model` to one question): the first pair of every question, then the second ones,
    each time in the order of the groups, so that a cut leaves as many questions as it can.

    Good: nowhere denies hearing, finished, well formed, with a reply, and, where the question's truth has events, states in
    reasoning and reply something of them and nothing false (see `false_or_empty`). Bad: denies hearing; well-formed ones first.
    Responses of the same tokens count once, invalid ones not at all. Raises PairError when a valid verdict has no component
    `self_cognition`, ValueError for fewer than one pair a question.
    """
    if max_per_question < 1:
        raise ValueError(f"max_per_question is 1 or more, got {max_per_question}")
    by_question = [_combine(_good(group, seed), _bad(group, seed), max_per_question, model, model) for group in groups]
    return [pairs[turn] for turn in range(max_per_question) for pairs in by_question if turn < len(pairs)]


def false_or_empty(groups: Sequence[Sequence[Scored]]) -> int:
    """Responses that are no good side for one reason alone: they state nothing of what there is to hear, or something false.

    Raises PairError when a valid verdict has no component `self_cognition`.
    """
    return sum(_hears(scored) and not _is_true(scored) for group in groups for scored in group)


def merge_earlier(
    pairs: Sequence[MinedPair],
    groups: Sequence[Sequence[Scored]],
    earlier: Mapping[str, Sequence[Sequence[Scored]]],
    *,
    needed: int,
    model: str,
    max_per_question: int,
    seed: int,
) -> Mined:
    """Fills up to `needed` pairs with bad responses of earlier checkpoints, against good ones of `model`.

    pairs: what `mine_pairs` found in `groups` (all are kept); earlier: responses to the same questions by the checkpoint that
    sampled them, in the order in which they are asked for. Questions with the fewest pairs come first, then by the seed.
    """
    found = list(pairs)
    count = Counter(pair.question_id for pair in found)
    good = {group[0].question.id: good for group in groups if group and (good := _good(group, seed))}
    other_prompt = 0
    for name, earlier_groups in earlier.items():
        bad: dict[str, list[Scored]] = defaultdict(list)
        for group in earlier_groups:
            for scored in _bad(group, seed):
                question = scored.question.id
                if question in good and not _same_prompt(scored, good[question][0]):
                    other_prompt += 1
                elif question in good:
                    bad[question].append(scored)
        order = sorted(bad, key=lambda question: (derive(seed, "earlier", question), question))
        known = {_key(pair) for pair in found}
        options = {
            question: [
                pair
                for pair in _combine(good[question], bad[question], max_per_question, model, name)
                if _key(pair) not in known
            ]
            for question in order
        }
        while len(found) < needed:
            open_questions = [q for q in order if options[q] and count[q] < max_per_question]
            if not open_questions:
                break
            question = min(open_questions, key=lambda q: count[q])
            found.append(options[question].pop(0))
            count[question] += 1
    return Mined(tuple(found), dict(Counter(pair.rejected.model for pair in found)), other_prompt)


def error_rate(groups: Sequence[Sequence[Scored]]) -> tuple[float, float]:
    """Share of valid responses that deny hearing, mean over questions, and its standard error over questions (NaN and 0 for none).

    Raises PairError when a valid verdict has no component `self_cognition`.
    """
    shares = []
    for group in groups:
        denied = [_denies(scored) for scored in group if scored.verdict.valid]
        if denied:
            shares.append(sum(denied) / len(denied))
    return mean_and_error(shares)


def _denies(scored: Scored) -> bool:
    value = scored.verdict.components.get(SELF_COGNITION)
    if value is None:
        raise PairError(
            f"the verdict of {scored.trajectory.id} has no component {SELF_COGNITION!r}; add the reward {SELF_COGNITION} "
            "to the stage that scores audio-perception prompts (weight 0 is enough)"
        )
    return value < USES_HEARING


def _good(group: Sequence[Scored], seed: int) -> list[Scored]:
    able = [s for s in group if _hears(s) and _is_true(s)]
    return _distinct(sorted(able, key=lambda s: _drawn(s, seed)))


def _hears(s: Scored) -> bool:
    return s.verdict.valid and not _denies(s) and s.sample.finished and s.sample.well_formed and bool(s.sample.reply)


def _bad(group: Sequence[Scored], seed: int) -> list[Scored]:
    able = [s for s in group if s.verdict.valid and _denies(s)]
    return _distinct(sorted(able, key=lambda s: (not s.sample.well_formed, *_drawn(s, seed))))


def _is_true(scored: Scored) -> bool:
    """Whether reasoning and reply together state something and nothing false, omissions of a list included; True without a truth."""
    return response_true_share(scored) in (None, 1.0)


def _drawn(scored: Scored, seed: int) -> tuple[int, str]:
    return derive(seed, "pair", scored.trajectory.id), scored.trajectory.id


def _distinct(items: Sequence[Scored]) -> list[Scored]:
    return list({s.trajectory.response_ids: s for s in reversed(items)}.values())[::-1]


def _key(pair: MinedPair) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
    return pair.question_id, pair.chosen_ids, pair.rejected_ids


def _same_prompt(one: Scored, other: Scored) -> bool:
    return (one.trajectory.prompt_ids, one.trajectory.feature_keys) == (
        other.trajectory.prompt_ids,
        other.trajectory.feature_keys,
    )


def _combine(good: Sequence[Scored], bad: Sequence[Scored], most: int, model: str, bad_model: str) -> list[MinedPair]:
    """The best good one with the first bad one, and so on; the shorter list starts again until the longer one is used up."""
    if not good or not bad:
        return []
    number = min(most, max(len(good), len(bad)))
    return [_pair(good[i % len(good)], bad[i % len(bad)], model, bad_model) for i in range(number)]


def _pair(good: Scored, bad: Scored, model: str, bad_model: str) -> MinedPair:
    def side(scored: Scored, name: str) -> Side:
        trajectory = scored.trajectory
        return Side(name, trajectory.version, trajectory.id, trajectory.text)

    return MinedPair(
        question_id=good.question.id,
        prompt_ids=good.trajectory.prompt_ids,
        feature_keys=good.trajectory.feature_keys,
        chosen_ids=good.trajectory.response_ids,
        rejected_ids=bad.trajectory.response_ids,
        chosen=side(good, model),
        rejected=side(bad, bad_model),
    )
