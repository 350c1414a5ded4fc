"""Which function does the work of which kind of stage.

Neighbours: `pipeline` names the kinds, `conductor` calls the functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.conductor import Runner
from orchestrator.config.recipe import ReinforceConfig, SelectConfig
from orchestrator.stages import align, cold_start, curve, distil, evaluate, export, perceive, refine, select, sft
from orchestrator.stages.context import StageContext
from orchestrator.stages.reinforce import Reinforce
from rollout import Question


def run_select(context: StageContext) -> dict[str, Any]:
    """Text alone in the cold start, everything else after it."""
    return select.run(context, _questions(context), _select_settings(context))


def run_reinforce(context: StageContext) -> dict[str, Any]:
    by_id = {question.id: question for question in _questions(context)}
    (pool,) = (context.results[name]["pool"] for name in context.stage.needs)
    return Reinforce(context, [by_id[name] for name in pool], _reinforce_settings(context)).run()


def _in_cold_start(context: StageContext) -> bool:
    return context.stage.name.startswith("cold_start.")


def _questions(context: StageContext) -> list[Question]:
    text = context.questions.text_train
    return text if _in_cold_start(context) else [*context.questions.train, *text]


def _select_settings(context: StageContext) -> SelectConfig:
    pipeline = context.parts.config.pipeline
    return pipeline.cold_start.select if _in_cold_start(context) else pipeline.select


def _reinforce_settings(context: StageContext) -> ReinforceConfig:
    pipeline = context.parts.config.pipeline
    return pipeline.cold_start.reinforce if _in_cold_start(context) else pipeline.reinforce


RUNNERS: Mapping[str, Runner] = {
    "sft": sft.run,
    "evaluate": evaluate.run,
    "select": run_select,
    "reinforce": run_reinforce,
    "chains": distil.chains,
    "cold_start": cold_start.run,
    "curve": curve.run,
    "perceive": perceive.run,
    "distil": distil.run,
    "refine": refine.run,
    "align": align.run,
    "export": export.run,
}
