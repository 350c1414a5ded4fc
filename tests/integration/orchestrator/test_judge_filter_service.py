"""The judge of distillation as a stage asks it: a service of its own on Ray, costs of the stage, answers kept with its files."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from endpoint_server import Answer, EndpointServer, completion
from rich.console import Console

from orchestrator.config.compose import compose_config
from orchestrator.pipeline import Stage
from orchestrator.progress import ProgressView
from orchestrator.rundir import RunDirectory
from orchestrator.stages.context import StageContext
from orchestrator.stages.judge_filter import ask_judge
from orchestrator.stages.scoring import Scored
from rewards import Verdict, make_sample
from rollout import AnswerKind, FinishReason, Question, Trajectory

pytestmark = pytest.mark.slow


def chain(number: int, reply: str) -> Scored:
    question = Question(f"q{number}", "Which instrument plays?", "violin", AnswerKind.EXACT)
    text = f"<think>\nBowed strings.\n</think>\n{reply}"
    trajectory = Trajectory(
        f"t1.distil/q{number}/0", question.id, 0, (1,), (2,), (0.0,), (1,), (), FinishReason.STOP, text
    )
    return Scored(question, trajectory, make_sample(question, trajectory), Verdict(True, 1.0, {"answer": 1.0}), 0, 0)


def context(root: Path, url: str, state: dict[str, Any]) -> StageContext:
    """A stage at work, with what the judge needs of it; `state` is what a resumed attempt finds."""
    parameters = f"{{url: '{url}/v1', model: m, attempts: 1, breaker_failures: 100, price_in: 2.0}}"
    config = compose_config(
        ["experiment=mgrd_tiny", f"+pipeline.distil.judge={{name: judge, parameters: {parameters}}}"]
    )
    parts = SimpleNamespace(
        config=config, directory=RunDirectory(root), progress=ProgressView(Console(quiet=True), False)
    )
    return StageContext(
        stage=Stage("t1.distil", "distil", 1),
        folder=root / "stages" / "t1.distil",
        parts=parts,  # type: ignore[arg-type]
        questions=None,  # type: ignore[arg-type]
        progress=dict(state),
        results={},
        model="cold_start",
        version=1,
        models=(),
        updates_before=0,
        changed=False,
        _keep=lambda progress, *_: state.update(progress),
        _borrow=lambda _: 1,
        _resume=lambda _: 1,
    )


def test_a_stage_pays_for_its_own_answers_once_and_a_silent_judge_stops_nothing(tmp_path: Path) -> None:
    chains = [chain(0, "a violin"), chain(1, "mute"), chain(2, "a cello")]
    state: dict[str, Any] = {}
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        with EndpointServer(
            lambda r: Answer("?", 500) if "mute" in str(r.body) else completion("Yes.\nLEVEL: 5")
        ) as server:
            first = ask_judge(context(tmp_path, server.url, state), chains)
            assert {name: verdict.valid for name, verdict in first.verdicts.items()} == {
                "t1.distil/q0/0": True, "t1.distil/q1/0": False, "t1.distil/q2/0": True,
            }  # fmt: skip
            assert "no verdict on 1 chains" in first.complaint
            assert first.costs["judge_requests"] == 2 and first.costs["judge_money"] == pytest.approx(4e-4)

            server.script = lambda _: completion("No.\nLEVEL: 1")
            resumed = context(tmp_path, server.url, state)
            second = ask_judge(resumed, chains)
            assert (second.complaint, second.versions) == ("", first.versions)
            assert second.costs["judge_requests"] == 3  # those of the attempt before count
            assert second.verdicts["t1.distil/q1/0"].components["judge"] == 0.0
            assert resumed.files == ["judged.jsonl"]

            next_stage = ask_judge(context(tmp_path, server.url, {}), chains)
            assert len(server.requests) == 4 and next_stage.costs["judge_requests"] == 0
    finally:
        ray.shutdown()
    assert (tmp_path / "judge_filter_costs.jsonl").read_text().count("\n") == 3
