"""Filters of self-distillation: a response is kept when it passes every rule, else it is counted under the first it failed
(Step-Audio-R1, section 4.2: grounded in what is heard, coherent, right).

Neighbours: reward functions judged the response (`Scored.verdict`), `chains` composes filters, de-duplication and caps.
Invariants: pure; one response, one reason; an invalid verdict is a reason of its own, never a failed rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.errors import ConfigError
from orchestrator.stages.scoring import CORRECTNESS, Scored
from rewards import true_share

KEPT, INVALID, UNFINISHED, NOT_WELL_FORMED, LENGTH = "kept", "invalid", "unfinished", "not_well_formed", "length"
CORRECT = "correct"
GROUNDING_TRUE_SHARE, TRUE_SHARE, STATED = "grounding/true_share", "perceptions/true_share", "perceptions/stated"
RESPONSE_TRUE_SHARE = "response/true_share"


@dataclass(frozen=True, slots=True)
class FilterRule:
    """A component of the verdict must lie in min..max (bounds included; None: no bound).

    component: a name in `Verdict.components`, or one of DERIVED; optional: a verdict without the component passes, and is
    counted; except_datasets: questions that the rule does not apply to; only_datasets: the only ones that it does (empty:
    all). Raises ConfigError for bounds that let nothing or everything pass.
    """

    component: str
    min: float | None = None
    max: float | None = None
    optional: bool = False
    except_datasets: tuple[str, ...] = ()
    only_datasets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        bounds = [bound for bound in (self.min, self.max) if bound is not None]
        if not bounds or any(math.isnan(bound) for bound in bounds) or bounds[0] > bounds[-1]:
            raise ConfigError(
                f"filter {self.component!r} needs min, max or both, with min <= max; got {self.min}..{self.max}"
            )

    def applies_to(self, dataset: str) -> bool:
        return dataset not in self.except_datasets and (not self.only_datasets or dataset in self.only_datasets)

    def passes(self, value: float) -> bool:
        """NaN does not."""
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)


@dataclass(frozen=True, slots=True)
class LengthBand:
    """Reasoning tokens that a chain may have, both ends included. Raises ConfigError unless 0 <= low <= high."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high:
            raise ConfigError(f"a length band needs 0 <= low <= high, got {self.low}..{self.high} tokens")


@dataclass(frozen=True, slots=True)
class Decision:
    """reason: `kept`, or the first filter that failed; absent: optional rules that had nothing to look at."""

    kept: bool
    reason: str
    absent: tuple[str, ...] = ()


def decide(
    scored: Scored, rules: Sequence[FilterRule], band: LengthBand | None = None, direct: Sequence[str] = ()
) -> Decision:
    """Validity and form first, then the rules in their order, then the reasoning's length.

    Well formed means: one closed think block with something in it, and a reply. A rule that is not optional and whose component
    the verdict lacks fails under `{component}_missing`. direct: data sets whose questions may be answered without reasoning; there the
    empty think block is well formed, too, and of any length.
    """
    if not scored.verdict.valid:
        return Decision(False, INVALID)
    if not scored.sample.finished:
        return Decision(False, UNFINISHED)
    may_be_direct = scored.question.dataset in direct
    if not (scored.thinks or (may_be_direct and scored.sample.well_formed)) or not scored.sample.reply:
        return Decision(False, NOT_WELL_FORMED)
    absent: list[str] = []
    for rule in rules:
        if not rule.applies_to(scored.question.dataset):
            continue
        value = component(scored, rule.component)
        if value is None:
            if not rule.optional:
                return Decision(False, f"{rule.component}_missing", tuple(absent))
            absent.append(rule.component)
        elif not rule.passes(value):
            return Decision(False, rule.component, tuple(absent))
    if band is not None and not may_be_direct and not band.low <= scored.sample.reasoning_tokens <= band.high:
        return Decision(False, LENGTH, tuple(absent))
    return Decision(True, KEPT, tuple(absent))


def component(scored: Scored, name: str) -> float | None:
    """What a rule looks at; None when the verdict does not have it.

    `correct`: the component that says whether the reply is right (`answer`, else `math`); `grounding/true_share`: true of the
    checked statements, 1 when none could be checked (nothing is false, `grounding` says that too little is stated);
    `perceptions/true_share` and `perceptions/stated`: of the claims that the question's truth can tell;
    `response/true_share`: true of the claims in reasoning and reply, what a list leaves out included, 0 when they make none.
    """
    derived = DERIVED.get(name)
    return derived(scored) if derived else scored.verdict.components.get(name)


def funnel(decisions: Iterable[Decision], rules: Sequence[FilterRule] = ()) -> dict[str, int]:
    """Responses by what became of them, in the order of the filters, `kept` last; values add up to the decisions.

    Filters that nothing failed are there with 0; a missing component only when there was one.
    """
    return tally([decision.reason for decision in decisions], reasons(rules))


def reasons(rules: Sequence[FilterRule]) -> list[str]:
    """Why a response may go, in the order in which the filters look."""
    return [INVALID, UNFINISHED, NOT_WELL_FORMED, *dict.fromkeys(rule.component for rule in rules), LENGTH]


def tally(found: Iterable[str], order: Sequence[str]) -> dict[str, int]:
    """How often each was found: those of `order` first, others as they came, `kept` last; values add up to what was found."""
    counts = dict.fromkeys(order, 0) | {KEPT: 0}
    for reason in found:
        counts[reason] = counts.get(reason, 0) + 1
    kept = counts.pop(KEPT)
    return {**counts, KEPT: kept}


def _correct(scored: Scored) -> float | None:
    found = [scored.verdict.components[name] for name in CORRECTNESS if name in scored.verdict.components]
    return found[0] if found else None


def _grounding_true_share(scored: Scored) -> float | None:
    components = scored.verdict.components
    if "grounding/true" not in components or "grounding/checked" not in components:
        return None
    checked = components["grounding/checked"]
    return components["grounding/true"] / checked if checked else 1.0


def _true_share(scored: Scored) -> float | None:
    if not scored.question.truth:
        return None
    return scored.true_claims / scored.stated_claims if scored.stated_claims else 0.0


def _stated(scored: Scored) -> float | None:
    return float(scored.stated_claims) if scored.question.truth else None


def response_true_share(scored: Scored) -> float | None:
    """Of the perceptions stated in reasoning and reply, those that are true; what a list leaves out counts as false. 0 when nothing is
    stated; None when the question's truth has no events."""
    question, sample = scored.question, scored.sample
    if "events" not in question.truth:
        return None
    true, stated = true_share(f"{sample.reasoning}\n{sample.reply}", question.truth, question.task)
    return true / stated if stated else 0.0


DERIVED: Mapping[str, Callable[[Scored], float | None]] = {
    CORRECT: _correct,
    GROUNDING_TRUE_SHARE: _grounding_true_share,
    TRUE_SHARE: _true_share,
    STATED: _stated,
    RESPONSE_TRUE_SHARE: response_true_share,
}
