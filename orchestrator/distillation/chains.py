"""Responses → chains to learn from: filters, de-duplication, a judge, caps, and where every chain comes from.

Neighbours: `filters`, `dedupe` and `caps` decide; `stages` sample before, ask the judge about `candidates` and train after. Invariants:
pure; the funnel adds up to the responses that came in; every chain names the model, the seed and the verdicts that let it pass.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.distillation.caps import (
    OVER_QUESTION_CAP,
    OVER_TASK_CAP,
    TaskBalance,
    at_most_a_question,
    balance_tasks,
)
from orchestrator.distillation.dedupe import DUPLICATE, NEAR_DUPLICATE, dedupe
from orchestrator.distillation.filters import KEPT, FilterRule, LengthBand, decide, reasons, tally
from orchestrator.evaluation.outcomes import think_tokens
from orchestrator.stages.scoring import Scored
from rewards import Verdict

IDS = ("prompt_ids", "response_ids", "feature_keys")
JUDGE, JUDGE_INVALID = "judge", "judge_invalid"  # below the judge's bar; not judged


@dataclass(frozen=True, slots=True)
class Provenance:
    """Who made the responses. model: checkpoint's name; seed: of the sampling; iteration: t of MGRD (0: cold start)."""

    model: str
    seed: int
    iteration: int


@dataclass(frozen=True, slots=True)
class KeptChain:
    """One response that passed every filter.

    prompt_ids: expanded; response_ids: as sampled, end token included; text: decoded response; weights_version: the oldest that
    sampled a token; components: the filters' verdicts by name; the rest as in Provenance.
    """

    question_id: str
    task: str
    dataset: str
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    feature_keys: tuple[str, ...]
    text: str
    reasoning_tokens: int
    trajectory_id: str
    weights_version: int
    model: str
    seed: int
    iteration: int
    components: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, line: str | bytes) -> KeptChain:
        """Raises ValueError for text that is not JSON, TypeError or KeyError for an unknown or missing field."""
        data: dict[str, Any] = json.loads(line)
        return cls(**(data | {name: tuple(data[name]) for name in IDS}))


@dataclass(frozen=True, slots=True)
class DistilSettings:
    """The filters in their order, and the limits behind them.

    near_duplicate: similarity 0..1 (1: exact duplicates only); judge: what a judge's score of a candidate must lie in (None: no
    judge is asked); max_chains: kept for one question (0: all); seed: who stays when there are too many; direct: data sets whose
    questions may be answered without reasoning (they stand beside the balance of tasks).
    """

    rules: tuple[FilterRule, ...]
    band: LengthBand | None = None
    near_duplicate: float = 1.0
    judge: FilterRule | None = None
    max_chains: int = 0
    balance: TaskBalance = field(default_factory=TaskBalance)
    seed: int = 0
    direct: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Distilled:
    """kept: in the order of the responses; sampled: responses that came in; funnel: they by what became of them, `kept` last, in
    the order of the filters; by_task: the same for every task; absent: responses that passed an optional rule for want of its
    component, by rule (a judge that was not asked)."""

    kept: tuple[KeptChain, ...]
    sampled: int
    funnel: dict[str, int]
    by_task: dict[str, dict[str, int]]
    absent: dict[str, int]

    @property
    def kept_by_task(self) -> dict[str, int]:
        return {task: counts[KEPT] for task, counts in self.by_task.items()}


def candidates(groups: Sequence[Sequence[Scored]], settings: DistilSettings) -> tuple[Scored, ...]:
    """Responses that pass every filter and say something new: all that a judge need be asked about."""
    decided = (scored for group in groups for scored in group)
    passed = [scored for scored in decided if decide(scored, settings.rules, settings.band, settings.direct).kept]
    return dedupe(passed, settings.near_duplicate).kept


def distil(
    groups: Sequence[Sequence[Scored]],
    settings: DistilSettings,
    provenance: Provenance,
    judged: Mapping[str, Verdict] | None = None,
) -> Distilled:
    """groups: the responses to each question; judged: by trajectory id, the verdicts on their `candidates`, where a judge is set.

    Filters, then duplicates, then the judge, then the cap of a question, then that of a task. Raises ValueError when two responses
    have the same trajectory id, KeyError for a candidate that the judge was not asked about.
    """
    asked = [scored for group in groups for scored in group]
    decisions = [decide(scored, settings.rules, settings.band, settings.direct) for scored in asked]
    fates = {scored.trajectory.id: decision.reason for scored, decision in zip(asked, decisions, strict=True)}
    if len(fates) < len(asked):
        raise ValueError(
            f"{len(asked)} responses share {len(fates)} trajectory ids; give every sampling a prefix of its own"
        )
    passed = [scored for scored, decision in zip(asked, decisions, strict=True) if decision.kept]
    unique = dedupe(passed, settings.near_duplicate)
    verdicts = judged or {}
    good, refused = _judged(unique.kept, settings.judge, verdicts)
    few = at_most_a_question(good, settings.max_chains, settings.seed) if settings.max_chains else good
    reasoned = [scored for scored in few if scored.question.dataset not in settings.direct]
    over = _ids(reasoned) - _ids(balance_tasks(reasoned, settings.balance, settings.seed))
    balanced = [scored for scored in few if scored.trajectory.id not in over]
    fates |= unique.dropped | refused
    fates |= dict.fromkeys(_ids(good) - _ids(few), OVER_QUESTION_CAP)
    fates |= dict.fromkeys(over, OVER_TASK_CAP)
    tasks: dict[str, list[str]] = defaultdict(list)
    for scored in asked:
        tasks[scored.question.task].append(fates[scored.trajectory.id])
    return Distilled(
        kept=tuple(_chain(scored, provenance, verdicts.get(scored.trajectory.id)) for scored in balanced),
        sampled=len(asked),
        funnel=_counted(list(fates.values()), settings),
        by_task={task: _counted(tasks[task], settings) for task in sorted(tasks)},
        absent=dict(Counter(name for decision in decisions for name in decision.absent)),
    )


def _ids(items: Sequence[Scored]) -> set[str]:
    return {item.trajectory.id for item in items}


def _judged(
    items: Sequence[Scored], rule: FilterRule | None, verdicts: Mapping[str, Verdict]
) -> tuple[Sequence[Scored], dict[str, str]]:
    """(those above the judge's bar, why the others went, by trajectory id). No answer is no verdict, never a low one."""
    if rule is None:
        return items, {}
    good, refused = [], {}
    for item in items:
        verdict = verdicts[item.trajectory.id]
        if not verdict.valid or rule.component not in verdict.components:
            refused[item.trajectory.id] = JUDGE_INVALID
        elif rule.passes(verdict.components[rule.component]):
            good.append(item)
        else:
            refused[item.trajectory.id] = JUDGE
    return good, refused


def _counted(fates: Sequence[str], settings: DistilSettings) -> dict[str, int]:
    """How often each, every one that is possible in its order and `kept` last."""
    judge = [JUDGE, JUDGE_INVALID] if settings.judge else []
    order = [*reasons(settings.rules), DUPLICATE, NEAR_DUPLICATE, *judge, OVER_QUESTION_CAP, OVER_TASK_CAP]
    return tally(fates, order)


def _chain(scored: Scored, provenance: Provenance, judged: Verdict | None) -> KeptChain:
    trajectory = scored.trajectory
    return KeptChain(
        question_id=scored.question.id,
        task=scored.question.task,
        dataset=scored.question.dataset,
        prompt_ids=trajectory.prompt_ids,
        response_ids=trajectory.response_ids,
        feature_keys=trajectory.feature_keys,
        text=trajectory.text,
        reasoning_tokens=think_tokens(scored.sample),
        trajectory_id=trajectory.id,
        weights_version=trajectory.version,
        model=provenance.model,
        seed=provenance.seed,
        iteration=provenance.iteration,
        components=scored.verdict.components | (judged.components if judged else {}),
    )
