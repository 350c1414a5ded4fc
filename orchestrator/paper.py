"""Our runs on the left, what the paper reports on the right, for each of its ablations.

Neighbours: `paper.json` holds the paper's figures as data, `curve` draws ours, `mgrd report --against` calls this. Invariants: the paper's
side shows nothing that the paper does not report (a range as a band, a claim without figures as words); the caption says that scales
differ.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.comparison import Arm
from orchestrator.curve import DPI, colors, draw_points, draw_updates
from orchestrator.errors import MgrdError
from orchestrator.results import markdown
from orchestrator.rundir import write_atomic

PAPER_FILE = Path(__file__).with_name("paper.json")
SCALES = (
    "Left: these runs. Right: the paper's figures; ranges are drawn as bands, over all updates where the paper names none. The scales "
    "differ: models, questions, lengths of reasoning and numbers of policy updates are not the same, so compare shapes and orders, not "
    "numbers."
)
LENGTH_NOTE = (
    "Bins mix questions: a longer chain may belong to another kind of question. Longer − shorter does not: it compares samples of one "
    "question, among those that think (percentage points with a 95 % interval over questions; pairs of samples of unequal length)."
)
GREY = "#999999"


def ablations() -> dict[str, dict[str, Any]]:
    """By name, in the paper's words and figures."""
    return json.loads(PAPER_FILE.read_text(encoding="utf-8"))["ablations"]


def ablation(name: str) -> dict[str, Any]:
    """Raises MgrdError for a name that is none."""
    found = ablations()
    if name not in found:
        raise MgrdError(f"the paper has no ablation {name!r} here; there are: {', '.join(found)}")
    return found[name]


def final_point(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """The last measurement of a run of either recipe."""
    return report["curve"][-1] if "curve" in report else report["eval"]["after"]


def need_figures(name: str, facts: Mapping[str, Any], arms: Sequence[Arm]) -> None:
    """Raises MgrdError where runs lack what the ablation compares."""
    expected = f"`{name}` compares the experiments {', '.join(facts['arms'])}"
    for arm in arms:
        for run in arm.runs:
            for row in facts["rows"]:
                ours = row["ours"]
                if isinstance(ours, dict) and "curve" in ours and "curve" not in run.report:
                    raise MgrdError(f"{run.name} has no curve (its recipe is rl); {expected}")
                if isinstance(ours, dict) and "updates" in ours and not run.updates:
                    raise MgrdError(f"{run.name} made no policy update; {expected}")
                if isinstance(ours, str) and not final_point(run.report).get("by_think_length"):
                    raise MgrdError(
                        f"{run.name} has no accuracy by think length (it was measured by an earlier version); run it again. {expected}"
                    )


def write_against(name: str, arms: Sequence[Arm], out: Path) -> list[Path]:
    """`out`/against_<name>.png and .md. Raises MgrdError for an unknown name, or for runs without the figures it needs."""
    facts = ablation(name)
    need_figures(name, facts, arms)
    out.mkdir(parents=True, exist_ok=True)
    figure_file, page = out / f"against_{name}.png", out / f"against_{name}.md"
    draw(facts, arms, figure_file)
    source = json.loads(PAPER_FILE.read_text(encoding="utf-8"))["source"]
    finding = f"Paper ({source}, sections {facts['sections']}): {facts['finding']}"
    picture = f"![{facts['title']}]({figure_file.name})"
    parts = [f"# {facts['title']}", finding, picture, SCALES]
    if any(isinstance(row["ours"], str) for row in facts["rows"]):
        parts += [LENGTH_NOTE, markdown(length_rows(arms)).rstrip()]
    write_atomic(page, "\n\n".join(parts) + "\n")
    return [figure_file, page]


def length_rows(arms: Sequence[Arm]) -> list[list[str]]:
    """Rows of text, the first one the header: what longer thinking does in the last measurement of every run."""
    rows = [
        ["arm", "seed", "sampled accuracy", "think tokens", "longer − shorter", "pairs", "longer is right", "shorter is right", "verdict"]
    ]  # fmt: skip
    for arm in arms:
        for run in arm.runs:
            point = final_point(run.report)
            effect = point["by_think_length"]["longer_minus_shorter_thinking"]
            known = effect["value"] is not None
            points = (100 * effect[key] for key in ("value", "low", "high")) if known else ()
            rows.append(
                [
                    arm.name,
                    str(run.report["seed"]),
                    f"{100 * point['sampled']:.1f} ±{100 * point['stderr']:.1f}",
                    f"{point['think_tokens']:.1f}",
                    "{:+.1f} [{:+.1f}, {:+.1f}]".format(*points) if known else "–",
                    *(str(effect[key]) for key in ("pairs", "longer_better", "shorter_better", "verdict")),
                ]
            )
    return rows


def draw(facts: Mapping[str, Any], arms: Sequence[Arm], path: Path) -> None:
    """A row a measure, ours and the paper's."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = facts["rows"]
    figure, axes = pyplot.subplots(
        len(rows), 2, figsize=(12, 3.3 * len(rows) + 1.2), layout="constrained", squeeze=False
    )
    titles = facts["arms"]
    color_of = {arm.name: color for arm, color in zip(arms, colors(len(arms)), strict=True)}
    for (left, right), row in zip(axes, rows, strict=True):
        _ours(left, row["ours"], arms, {arm.name: titles.get(arm.name, arm.name) for arm in arms})
        left.set_title(f"these runs: {row['title']}", fontsize=10)
        _paper(right, row["paper"], color_of)
        right.set_title("paper", fontsize=10)
    axes[0][0].legend(fontsize=8)
    figure.suptitle(facts["title"])
    figure.supxlabel("\n".join(textwrap.wrap(SCALES, 130)), fontsize=8)
    figure.savefig(path, dpi=DPI)
    pyplot.close(figure)


def _ours(axis: Any, what: str | Mapping[str, str], arms: Sequence[Arm], titles: Mapping[str, str]) -> None:
    if what == "think_length":
        _bins(axis, arms, titles)
    elif what == "length_effect":
        _effects(axis, arms, titles)
    elif isinstance(what, Mapping) and "updates" in what:
        draw_updates(axis, {titles[arm.name]: [run.updates for run in arm.runs] for arm in arms}, what["updates"])
    elif isinstance(what, Mapping):
        draw_points(axis, {titles[arm.name]: [run.report for run in arm.runs] for arm in arms}, what["curve"])


def _bins(axis: Any, arms: Sequence[Arm], titles: Mapping[str, str]) -> None:
    """Accuracy by think length: a line a run, with 95 % intervals."""
    for color, arm in zip(colors(len(arms)), arms, strict=True):
        for number, run in enumerate(arm.runs):
            bins = final_point(run.report)["by_think_length"]["bins"]
            down = [b["accuracy"] - b["low"] for b in bins]
            up = [b["high"] - b["accuracy"] for b in bins]
            axis.errorbar(
                [b["mean_tokens"] for b in bins],
                [b["accuracy"] for b in bins],
                yerr=[down, up],
                color=color,
                marker="o",
                capsize=2,
                linewidth=1.4,
                alpha=0.8,
                label=None if number else titles[arm.name],
            )
    axis.set_xlabel("think length, tokens (quantile bins, 95 % intervals)")
    axis.set_ylabel("accuracy")
    axis.grid(alpha=0.3)


def _effects(axis: Any, arms: Sequence[Arm], titles: Mapping[str, str]) -> None:
    """Longer minus shorter within questions, a mark a run, with its 95 % interval."""
    place, names = 0, []
    for color, arm in zip(colors(len(arms)), arms, strict=True):
        for run in arm.runs:
            effect = final_point(run.report)["by_think_length"]["longer_minus_shorter_thinking"]
            names.append(f"{titles[arm.name]}, seed {run.report['seed']}")
            if effect["value"] is not None:
                bars = [[effect["value"] - effect["low"]], [effect["high"] - effect["value"]]]
                axis.errorbar([effect["value"]], [place], xerr=bars, color=color, marker="o", capsize=3)
            place += 1
    axis.axvline(0, color="#333333", linewidth=0.8)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set_ylim(-0.7, len(names) - 0.3)
    axis.invert_yaxis()
    axis.set_xlabel("accuracy of the longer sample minus that of the shorter one")
    axis.grid(axis="x", alpha=0.3)


def _paper(axis: Any, facts: Mapping[str, Any], color_of: Mapping[str, str]) -> None:
    if "words" in facts:
        axis.text(
            0.5, 0.5, facts["words"], ha="center", va="center", fontsize=10, color="#444444", transform=axis.transAxes
        )
        axis.set_axis_off()
        return
    for number, band in enumerate(facts.get("bands", ())):
        color = color_of.get(band.get("arm", ""), GREY)
        axis.fill_between(
            [band["from"], band["to"]],
            band["low"],
            band["high"],
            facecolor=(color, 0.3) if not number else "none",  # hatched, so that two bands in one place are both seen
            edgecolor=color,
            hatch="//" if number else None,
            label=band["label"],
        )
    for mark in facts.get("marks", ()):
        color = color_of.get(mark.get("arm", ""), GREY)
        x, y = mark["at"]
        axis.plot([x], [y], color=color, linestyle="none", marker=mark["marker"], markersize=9, label=mark["label"])
    if "y" in facts:
        axis.set_ylim(*facts["y"])
    if bars := facts.get("bars"):
        _bars(axis, bars, facts["unit"], color_of)
    if "x" in facts:
        axis.set_xlabel(facts["x"])
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8)
    axis.grid(alpha=0.3)


def _bars(axis: Any, bars: Sequence[Mapping[str, Any]], unit: str, color_of: Mapping[str, str]) -> None:
    """With `before`: two bars beside each other, start and end."""
    two = any("before" in bar for bar in bars)
    width = 0.38 if two else 0.6
    for place, bar in enumerate(bars):
        color = color_of.get(bar.get("arm", ""), GREY if not two else "#444444")
        at = place + (width / 2 if two else 0)
        axis.bar(at, bar["value"], width, color=color, label="after" if two and not place else None)
        axis.text(at, bar["value"], f"{bar['value']:g}", ha="center", va="bottom", fontsize=7)
        if "before" in bar:
            axis.bar(place - width / 2, bar["before"], width, color="#cccccc", label=None if place else "start")
            axis.text(place - width / 2, bar["before"], f"{bar['before']:g}", ha="center", va="bottom", fontsize=7)
    axis.set_xticks(range(len(bars)), [bar["label"] for bar in bars], fontsize=8)
    axis.set_ylabel(unit)
    axis.margins(y=0.15)
