"""Route of comparison: two experiments, what they were told differently and what came of it.

Neighbours: the store holds both configurations, `run_files` both results. Invariant: keys and metrics of either side appear once, by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response

from orchestrator.config.compose import flat
from orchestrator.service.access import Reader
from orchestrator.service.answers import Comparison, ConfigDifference, MetricDifference
from orchestrator.service.api import run_files
from orchestrator.service.api.context import ID_PATTERN, Context, Here, answer
from orchestrator.service.api.problems import errors
from orchestrator.service.intake import config_of
from orchestrator.service.messages import Experiment

router = APIRouter(prefix="/v1", tags=["experiments"])
PROGRESS = ("reward", "accuracy", "tokens_per_s", "invalid_share", "reward_p95_s")
Which = Annotated[str, Query(pattern=ID_PATTERN)]


@router.get("/compare", response_model=Comparison, responses=errors(404))
def compare(a: Which, b: Which, here: Here, _: Reader) -> Response:
    """Keys whose values differ, and the last value of every metric of either."""
    first, second = here.store.get(a), here.store.get(b)
    ours, theirs = _config(here, first), _config(here, second)
    mine, yours = _metrics(first), _metrics(second)
    return answer(
        Comparison(
            tuple(
                ConfigDifference(key, ours.get(key), theirs.get(key))
                for key in sorted(ours.keys() | theirs.keys())
                if ours.get(key) != theirs.get(key)
            ),
            tuple(
                MetricDifference(name, mine.get(name), yours.get(name)) for name in sorted(mine.keys() | yours.keys())
            ),
        )
    )


def _config(here: Context, experiment: Experiment) -> dict[str, str]:
    return flat(config_of(here.store.config(experiment.config_sha256)))


def _metrics(experiment: Experiment) -> dict[str, float]:
    told = {name: getattr(experiment.progress, name) for name in PROGRESS}
    return {
        **{f"progress/{name}": value for name, value in told.items() if value is not None},
        **run_files.final_metrics(Path(experiment.run_dir)),
    }
