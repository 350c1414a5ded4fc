"""What an evaluation found, as one record of plain numbers and as a table (pure).

Neighbours: `outcomes` and `statistics` in; `runner` writes it as report.json, `plots` draws it, `promotion` reads its metrics by path.
Invariants: every figure that can carry an interval has one; invalid verdicts and truncated samples are counted beside the accuracy.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.evaluation.contribution import ContributionReport
from orchestrator.evaluation.outcomes import Outcome, by_question
from orchestrator.evaluation.statistics import (
    Estimate,
    LengthBin,
    LengthDistribution,
    LengthEffect,
    accuracy,
    accuracy_by,
    length_bins,
    length_distribution,
    longer_against_shorter,
    macro,
    pass_at,
    ratio,
    share,
)
from orchestrator.plain import plain


@dataclass(frozen=True, slots=True)
class GroupReport:
    """One task or domain. true_perceptions: share of the stated perceptions that are true, in sampled responses."""

    sampled: Estimate
    greedy: Estimate
    true_perceptions: Estimate


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """Shares in 0..1; sampled: mean over a question's samples, greedy: its one greedy response. pass_at: by k, `{"1": …}`; macro: mean
    of the tasks' sampled accuracies. longer_thinking leaves out truncated samples, longer_thinking_all keeps them,
    longer_when_thinking compares only samples that think."""

    questions: int
    samples: int
    sampled: Estimate
    greedy: Estimate
    macro: float
    pass_at: dict[str, Estimate]
    by_task: dict[str, GroupReport]
    by_domain: dict[str, GroupReport]
    think_present: float
    think_tokens: LengthDistribution
    by_length: list[LengthBin]
    longer_thinking: LengthEffect
    longer_thinking_all: LengthEffect
    longer_when_thinking: LengthEffect
    true_perceptions: Estimate
    stated_perceptions: int
    truncated: float
    invalid_verdicts: int
    contribution: ContributionReport | None = None

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON: NaN becomes None."""
        return plain(dataclasses.asdict(self))


def build_report(
    sampled: Sequence[Outcome],
    greedy: Sequence[Outcome],
    *,
    ks: Iterable[int] = (1,),
    seed: int = 0,
    contribution: ContributionReport | None = None,
) -> EvaluationReport:
    """Figures of the samples (n a question) and of the greedy responses (one a question)."""
    valid = [o for o in sampled if o.value is not None]
    groups = by_question(sampled)
    by_task = accuracy_by(sampled, lambda o: o.task, seed=seed)
    return EvaluationReport(
        questions=len(groups),
        samples=max((len(group) for group in groups), default=0),
        sampled=accuracy(sampled, seed=seed),
        greedy=accuracy(greedy, seed=seed),
        macro=macro(by_task),
        pass_at={str(k): pass_at(sampled, k, seed=seed) for k in sorted(set(ks))},
        by_task=_groups(sampled, greedy, "task", seed),
        by_domain=_groups(sampled, greedy, "domain", seed),
        think_present=share(sum(o.thinks for o in valid), len(valid)),
        think_tokens=length_distribution([o.think_tokens for o in valid]),
        by_length=length_bins(sampled, seed=seed),
        longer_thinking=longer_against_shorter(sampled, seed=seed),
        longer_thinking_all=longer_against_shorter(sampled, finished_only=False, seed=seed),
        longer_when_thinking=longer_against_shorter(sampled, thinking_only=True, seed=seed),
        true_perceptions=_true_perceptions(sampled, seed),
        stated_perceptions=sum(o.stated_claims for o in valid),
        truncated=share(sum(not o.finished for o in sampled), len(sampled)),
        invalid_verdicts=sum(o.value is None for o in (*sampled, *greedy)),
        contribution=contribution,
    )


def metrics_of(report: EvaluationReport) -> dict[str, float]:
    """The figures worth a metric in MLflow, by name; those that are not there are left out."""
    out = {
        "accuracy/sampled": report.sampled.value,
        "accuracy/sampled_low": report.sampled.low,
        "accuracy/sampled_high": report.sampled.high,
        "accuracy/greedy": report.greedy.value,
        "accuracy/macro": report.macro,
        "think/present": report.think_present,
        "think/tokens": report.think_tokens.mean,
        "think/longer_minus_shorter": report.longer_thinking.difference.value,
        "think/longer_minus_shorter_when_thinking": report.longer_when_thinking.difference.value,
        "think/true_perceptions": report.true_perceptions.value,
        "response/truncated": report.truncated,
        "invalid_verdicts": float(report.invalid_verdicts),
    }
    out |= {f"accuracy/pass_at_{k}": estimate.value for k, estimate in report.pass_at.items()}
    for kind, groups in (("task", report.by_task), ("domain", report.by_domain)):
        for name, group in groups.items():
            out[f"accuracy/{kind}/{name}"] = group.sampled.value
    if report.contribution is not None:
        out["contribution/mean"] = report.contribution.contribution.value
        out["contribution/corrected"] = report.contribution.corrected.value
        out |= {f"contribution/accuracy_{how}": e.value for how, e in report.contribution.without_clip.items()}
    return {name: value for name, value in out.items() if math.isfinite(value)}


def table_rows(report: EvaluationReport) -> list[list[str]]:
    """Rows of text, the first one the header: tasks, then domains (with a dot), then all; per cent with 95 % intervals."""
    rows = [["group", "n", "sampled", "greedy", "true perceptions"]]
    for kind, groups in (("task", report.by_task), ("domain", report.by_domain)):
        if kind == "domain" and len(groups) < 2:
            continue
        for name, group in groups.items():
            cells = (group.sampled, group.greedy, group.true_perceptions)
            rows.append([name if kind == "task" else f"· {name}", str(group.sampled.questions), *map(percent, cells)])
    cells = (report.sampled, report.greedy, report.true_perceptions)
    rows.append(["all", str(report.questions), *map(percent, cells)])
    return rows


def summary_lines(report: EvaluationReport) -> list[str]:
    """The rest in sentences: pass@k, lengths, whether longer thinking helps, what was left out."""
    lines = []
    if report.pass_at:
        lines.append("  ".join(f"pass@{k} {percent(e)}" for k, e in report.pass_at.items()))
    thinking = report.think_tokens
    if thinking.samples:
        q = thinking.quantiles
        lines.append(
            f"think length {thinking.mean:.1f} tokens on average (p10 {q['p10']:.0f}, median {q['p50']:.0f}, p90 {q['p90']:.0f}), "
            f"{100 * thinking.empty:.1f} % without any"
        )
    for effect, whose in ((report.longer_thinking, ""), (report.longer_when_thinking, ", among samples that think")):
        points = effect.difference
        if effect.pairs:
            lines.append(
                f"longer thinking{whose}: {effect.verdict}, {100 * points.value:+.1f} points "
                f"[{100 * points.low:+.1f}, {100 * points.high:+.1f}] within {points.questions} questions, {effect.pairs} pairs of samples"
            )
        else:
            lines.append(f"longer thinking{whose}: no question has samples of unequal length")
    if (heard := report.contribution) is not None and heard.questions:
        points, without = heard.contribution, ", ".join(f"{how} {percent(e)}" for how, e in heard.without_clip.items())
        lines.append(
            f"audio contributes {100 * points.value:+.1f} points [{100 * points.low:+.1f}, {100 * points.high:+.1f}]: "
            f"greedy {percent(heard.with_clip)} with the clip, without it {without}"
        )
        if heard.chance:
            lines.append(
                f"that is {percent(heard.corrected)} % of what guessing among the options ({100 * heard.chance:.1f} %) leaves"
            )
    lines.append(
        f"{report.invalid_verdicts} invalid verdicts, {100 * _zero(report.truncated):.1f} % of samples truncated"
    )
    return lines


def percent(estimate: Estimate) -> str:
    """`61.2 [57, 65]`; an en dash when there is nothing."""
    if not math.isfinite(estimate.value):
        return "–"
    return f"{100 * estimate.value:.1f} [{100 * estimate.low:.0f}, {100 * estimate.high:.0f}]"


def _groups(
    sampled: Sequence[Outcome], greedy: Sequence[Outcome], field_name: str, seed: int
) -> dict[str, GroupReport]:
    names = sorted({getattr(o, field_name) for o in sampled} - {""})
    out = {}
    for name in names:
        mine = [o for o in sampled if getattr(o, field_name) == name]
        best = [o for o in greedy if getattr(o, field_name) == name]
        out[name] = GroupReport(accuracy(mine, seed=seed), accuracy(best, seed=seed), _true_perceptions(mine, seed))
    return out


def _true_perceptions(outcomes: Sequence[Outcome], seed: int) -> Estimate:
    groups = by_question([o for o in outcomes if o.value is not None])
    true = [float(sum(o.true_claims for o in group)) for group in groups]
    return ratio(true, [float(sum(o.stated_claims for o in group)) for group in groups], seed=seed)


def _zero(value: float) -> float:
    return value if math.isfinite(value) else 0.0
