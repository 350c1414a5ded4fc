"""Results of the reward lab as tables for people and as JSON for programs.

Neighbours: `rewards_cli` prints what is made here. Invariant: a table cuts long texts, JSON never does.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rewards import Bundle, Difference, Published, RewardFunction, Verdict
from rewards.lab import CaseResult

SHORT_HASH = len("sha256:") + 12
LONGEST_CELL = 160


def cases_table(title: str, results: Sequence[CaseResult]) -> Table:
    table = Table("case", "expected", "got", "time", "", title=title, title_justify="left")
    for result in results:
        mark = Text("ok", "green") if result.passed else Text("MISS", "bold red")
        table.add_row(Text(result.case), cut(result.expected), cut(result.got), milliseconds(result.seconds), mark)
    return table


def cases_json(results: Sequence[CaseResult]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(result) for result in results]


def summary(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Mean, spread and count of the score and every component, share invalid, reasons with their counts, most frequent first."""
    names = list(dict.fromkeys(name for verdict in verdicts for name in verdict.components))
    columns = {"score": [verdict.score for verdict in verdicts if verdict.score is not None]}
    columns |= {name: [v.components[name] for v in verdicts if name in v.components] for name in names}
    reasons: dict[str, int] = {}
    for verdict in verdicts:
        if verdict.reason:
            reasons[verdict.reason] = reasons.get(verdict.reason, 0) + 1
    seconds = {name: [v.seconds[name] for v in verdicts if name in v.seconds] for name in names}
    return {
        "count": len(verdicts),
        "invalid": sum(not verdict.valid for verdict in verdicts),
        "components": {
            name: {
                "count": len(values),
                "mean": statistics.fmean(values) if values else None,
                "spread": statistics.pstdev(values) if values else None,
                "seconds_p50": statistics.median(seconds[name]) if seconds.get(name) else None,
            }
            for name, values in columns.items()
        },
        "reasons": dict(sorted(reasons.items(), key=lambda entry: -entry[1])),
    }


def summary_table(title: str, figures: Mapping[str, Any]) -> RenderableType:
    table = Table("component", "scored", "mean", "spread", "time (median)", title=title, title_justify="left")
    for name, row in figures["components"].items():
        seconds = row["seconds_p50"]
        table.add_row(
            Text(name),
            str(row["count"]),
            number(row["mean"]),
            number(row["spread"]),
            "" if seconds is None else milliseconds(seconds),
        )
    parts: list[RenderableType] = [table, Text(f"{figures['count']} scored, {figures['invalid']} invalid")]
    if figures["reasons"]:
        reasons = Table("why invalid", "how often")
        for reason, count in list(figures["reasons"].items())[:10]:
            reasons.add_row(cut(reason), str(count))
        parts.append(reasons)
    return Group(*parts)


def difference_table(a: str, b: str, difference: Difference) -> RenderableType:
    head = Table("", a, b, "change", title=f"{difference.count} trajectories", title_justify="left")
    shift = f"{difference.shift:+.4f} ± {difference.error:.4f}"
    head.add_row("mean score (valid by both)", number(difference.mean_a), number(difference.mean_b), shift)
    head.add_row("invalid", str(difference.invalid_a), str(difference.invalid_b), "")
    lines = Text(
        f"agreement {difference.agreement:.2%}; {difference.flipped} differ; spread of the change {difference.spread:.4f}"
    )
    if not difference.flips:
        return Group(head, lines)
    flips = Table(
        "question", "reference", "reply", "A", "B", title="Flipped, largest change first", title_justify="left"
    )
    for flip in difference.flips:
        flips.add_row(
            cut(flip.prompt),
            cut(flip.reference, 40),
            cut(flip.reply),
            score_or_reason(flip.a, flip.reason_a),
            score_or_reason(flip.b, flip.reason_b),
        )
    return Group(head, lines, flips)


def installed_table(functions: Sequence[RewardFunction]) -> Table:
    table = Table("installed", "what it gives", title="Installed rewards", title_justify="left")
    for function in functions:
        table.add_row(Text(function.name, "bold"), cut(first_line(function)))
    return table


def installed_json(functions: Sequence[RewardFunction]) -> list[dict[str, Any]]:
    return [
        {"name": f.name, "module": f.module, "note": f.version_note, "doc": first_line(f), "network": f.network,
         "deterministic": f.deterministic, "secrets": list(f.secrets), "batch": f.batch}
        for f in functions
    ]  # fmt: skip


def published_table(lines: Sequence[Published]) -> Table:
    table = Table(
        "name", "version", "tags", "kind", "published", "note", title="Published rewards", title_justify="left"
    )
    for line in lines:
        note = f"retired: {line.retired_note}" if line.retired_at else line.note
        table.add_row(
            Text(line.name, "bold"),
            line.hash[:SHORT_HASH],
            ", ".join(line.tags),
            line.kind,
            day(line.at),
            cut(note),
            style="dim" if line.retired_at else None,
        )
    return table


def bundle_table(line: Published, bundle: Bundle) -> RenderableType:
    table = Table(show_header=False, title=f"{line.name}", title_justify="left")
    rows = {
        "version": line.hash,
        "kind": line.kind,
        "tags": ", ".join(line.tags),
        "published": day(line.at),
        "note": line.note,
        "retired": f"{day(line.retired_at)} {line.retired_note}" if line.retired_at else "",
        "parameters": ", ".join(f"{name}={value!r}" for name, value in bundle.parameters.items()),
        "files": ", ".join([*bundle.sources, *bundle.data]),
        "libraries": ", ".join(f"{name} {version or 'absent'}" for name, version in bundle.dependencies.items()),
        "golden cases": str(len(bundle.golden)),
        "declares": ", ".join(declarations(bundle)),
        "use": f"reward.terms.{line.name}.weight=1.0 reward.terms.{line.name}.version={line.hash}",
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, Text(value))
    return table


def declarations(bundle: Bundle) -> list[str]:
    return [
        *(["network"] if bundle.network else []),
        *([] if bundle.deterministic else ["not deterministic"]),
        *([f"batches of {bundle.batch}"] if bundle.batch else []),
        *(f"secret {name}" for name in bundle.secrets),
    ]


def first_line(function: RewardFunction) -> str:
    return (function.call.__doc__ or function.version_note or "").strip().partition("\n")[0]


def cut(text: str, longest: int = LONGEST_CELL) -> Text:
    flat = " ".join(text.split())
    return Text(flat if len(flat) <= longest else flat[: longest - 1] + "…")


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"


def score_or_reason(score: float | None, reason: str) -> Text:
    return cut(f"invalid: {reason}") if score is None else Text(f"{score:g}")


def day(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
