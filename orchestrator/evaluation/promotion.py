"""Who is champion: a model version becomes it only when a list of earlier results holds.

Neighbours: a run's end and `mgrd model promote` call `promote`; reports come from `report` or from a run. Invariants: `violations` is pure;
a metric that is missing or no number is a violation, never a pass; when one guardrail fails the champion stays who it is, and the
refused version says why in its tags; the report a champion was promoted with is kept in MLflow, since later ones are compared with it.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import ConfigError, MgrdError
from orchestrator.plain import plain

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION = "champion"  # alias in MLflow's registry
REPORT_TAG = "mgrd.promotion_report"  # artifact of the version's run that holds the report it was promoted with
REFUSED_TAG = "mgrd.promotion_refused"
MAX_TAG_CHARS = 5000


class PromotionError(MgrdError):
    """The registry can't be read or written, or knows no such model version."""


@dataclass(frozen=True, slots=True)
class Guardrail:
    """A bound on one metric of a report.

    metric: path into the report, `/` between keys and list indices (`greedy/value`, `curve/-1/greedy`); at_least, at_most: fixed
    bounds, included; within: how much worse than the champion's it may be, in the metric's own unit (None: not compared; without a
    champion it holds); lower_is_better: of errors and costs, for `within`.
    """

    metric: str
    at_least: float | None = None
    at_most: float | None = None
    within: float | None = None
    lower_is_better: bool = False

    def __post_init__(self) -> None:
        if not self.metric.strip("/"):
            raise ConfigError("a guardrail needs a metric, such as greedy/value")
        if self.at_least is None and self.at_most is None and self.within is None:
            raise ConfigError(f"the guardrail on {self.metric} bounds nothing: give at_least, at_most or within")
        if self.within is not None and self.within < 0:
            raise ConfigError(f"the guardrail on {self.metric}: within is a distance of 0 or more, not {self.within!r}")


@dataclass(frozen=True, slots=True)
class Violation:
    """A guardrail that does not hold. value: what the report says (None: nothing, or no number)."""

    metric: str
    value: float | None
    message: str

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, slots=True)
class PromotionOutcome:
    """promoted: whether `version` is champion now; champion: the version that is (None: there is none); violations: why not."""

    promoted: bool
    model: str
    version: str
    champion: str | None
    violations: tuple[Violation, ...] = ()


def violations(
    report: Mapping[str, Any], guardrails: Sequence[Guardrail], champion: Mapping[str, Any] | None = None
) -> list[Violation]:
    """Every bound that does not hold, in the guardrails' order; [] when the model may become champion.

    champion: the report of the present champion; None: there is none, and guardrails relative to it hold.
    """
    found = []
    for rail in guardrails:
        value = metric(report, rail.metric)
        if value is None:
            found.append(Violation(rail.metric, None, f"{rail.metric}: the report has no such number"))
            continue
        if rail.at_least is not None and value < rail.at_least:
            found.append(
                Violation(rail.metric, value, f"{rail.metric} is {value:.4g}, must be at least {rail.at_least:g}")
            )
        if rail.at_most is not None and value > rail.at_most:
            found.append(
                Violation(rail.metric, value, f"{rail.metric} is {value:.4g}, must be at most {rail.at_most:g}")
            )
        if rail.within is not None and champion is not None:
            found += _against_champion(rail, value, metric(champion, rail.metric))
    return found


def metric(report: Mapping[str, Any], path: str) -> float | None:
    """The number at a path; None where there is none, or one that is not finite."""
    value: Any = report
    for key in path.strip("/").split("/"):
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, Sequence) and not isinstance(value, str) and key.lstrip("-").isdigit():
            index = int(key)
            value = value[index] if -len(value) <= index < len(value) else None
        else:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def promote(
    tracking_uri: str,
    model_name: str,
    version_or_run_id: str,
    report: Mapping[str, Any],
    guardrails: Sequence[Guardrail],
) -> PromotionOutcome:
    """Make a registered version `champion` if every guardrail holds, else say which failed and leave the champion.

    version_or_run_id: a version's number, or the id of the run that registered it (its newest version). Raises PromotionError.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(tracking_uri, tracking_uri)
    try:
        version = _version(client, model_name, version_or_run_id)
        champion = champion_of(client, model_name)
        before = None if champion is None or champion.version == version.version else _report_of(client, champion)
        found = violations(report, guardrails, before)
        number = str(version.version)
        if found:
            told = "; ".join(str(violation) for violation in found)
            client.set_model_version_tag(model_name, number, REFUSED_TAG, told[:MAX_TAG_CHARS])
            return PromotionOutcome(
                False, model_name, number, str(champion.version) if champion else None, tuple(found)
            )
        place = f"promotion/{model_name}-v{number}.json"
        client.log_text(version.run_id, json.dumps(plain(report), indent=1) + "\n", place)
        client.set_model_version_tag(model_name, number, REPORT_TAG, place)
        if REFUSED_TAG in version.tags:
            client.delete_model_version_tag(model_name, number, REFUSED_TAG)
        client.set_registered_model_alias(model_name, CHAMPION, number)
    except MlflowException as error:
        raise PromotionError(
            f"MLflow at {tracking_uri} did not take the promotion of {model_name}: {error.message}; the champion stays"
        ) from error
    return PromotionOutcome(True, model_name, number, number)


def champion_of(client: MlflowClient, model_name: str) -> Any:
    """The version with the alias, or None. Raises what MLflow raises when it does not answer."""
    aliases = client.get_registered_model(model_name).aliases
    return client.get_model_version(model_name, aliases[CHAMPION]) if CHAMPION in aliases else None


def _against_champion(rail: Guardrail, value: float, best: float | None) -> list[Violation]:
    """A champion whose report lacks the metric can't be compared with, and what can't be compared does not hold."""
    if rail.within is None:
        return []
    if best is None:
        message = f"{rail.metric}: the champion's report has no such number; promote by the same kind of report as the champion's"
        return [Violation(rail.metric, value, message)]
    worse_by = value - best if rail.lower_is_better else best - value
    if worse_by <= rail.within + 1e-12:
        return []
    message = f"{rail.metric} is {value:.4g}, {worse_by:.4g} worse than the champion's {best:.4g} (at most {rail.within:g} allowed)"
    return [Violation(rail.metric, value, message)]


def _version(client: MlflowClient, model_name: str, version_or_run_id: str) -> Any:
    if version_or_run_id.isdigit():
        return client.get_model_version(model_name, version_or_run_id)
    made = client.search_model_versions(f"name = '{model_name}' and run_id = '{version_or_run_id}'")
    if not made:
        raise PromotionError(
            f"the run {version_or_run_id} has registered no version of {model_name}; export the model first, or give a version"
        )
    return max(made, key=lambda version: int(version.version))


def _report_of(client: MlflowClient, version: Any) -> dict[str, Any]:
    from mlflow.exceptions import MlflowException

    place = version.tags.get(REPORT_TAG)
    if not place:
        raise PromotionError(
            f"version {version.version} of {version.name} is champion without a report (somebody set the alias by hand): promote it by "
            "`mgrd model promote`, or take the alias away"
        )
    os.environ.setdefault(
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false"
    )  # it would draw over the command's own output
    with tempfile.TemporaryDirectory() as folder:
        try:
            file = client.download_artifacts(version.run_id, place, folder)
        except (MlflowException, OSError) as error:
            raise PromotionError(
                f"the champion's report {place} of run {version.run_id} can't be read: {error}"
            ) from error
        return json.loads(Path(file).read_text(encoding="utf-8"))
