"""Why a run ended: whose doing it was decides whether it is tried again."""

from __future__ import annotations

import pytest

from actor import Failure, TrainerDied
from orchestrator.config.compose import compose_config
from orchestrator.datasets import DataError
from orchestrator.demand import demand_of
from orchestrator.errors import ConfigError, NotNow, PreflightError, RunFailed, RunPaused
from orchestrator.gang import NoPlace, said
from orchestrator.service.blame import ending_of
from orchestrator.service.messages import Bundle, Cause, Demand, State
from orchestrator.service.observer import slowest_reward
from orchestrator.spool import TrackingError
from rewards import RewardError
from rollout import EngineDied, LedgerError


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (PreflightError("no such file"), Cause.USER),
        (ConfigError("unknown key"), Cause.USER),
        (DataError("line 3"), Cause.USER),
        (NotNow("memory is short"), Cause.INFRASTRUCTURE),
        (NoPlace("no room"), Cause.INFRASTRUCTURE),
        (EngineDied("4 died"), Cause.INFRASTRUCTURE),
        (LedgerError("Redis is away"), Cause.INFRASTRUCTURE),
        (TrackingError("MLflow is away"), Cause.INFRASTRUCTURE),
        (ConnectionResetError("gone"), Cause.INFRASTRUCTURE),
        (TrainerDied(1, "the process died during ppo_update", Failure.DIED), Cause.INFRASTRUCTURE),
        (TrainerDied(0, "no answer to start within 300 s", Failure.LATE), Cause.INFRASTRUCTURE),
        (TrainerDied(0, "ppo_update failed: TrainingDiverged: the loss is nan"), Cause.RUN),
        (RunFailed("the probe differs"), Cause.RUN),
        (RewardError("no such function"), Cause.RUN),
        (ZeroDivisionError("division by zero"), Cause.RUN),
    ],
)
def test_an_error_is_blamed_on_who_can_mend_it(error: Exception, cause: Cause) -> None:
    ending = ending_of(error)
    assert (ending.state, ending.cause) == (State.FAILED, cause)
    assert str(error) in ending.reason


def test_a_pause_is_no_failure() -> None:
    assert ending_of(RunPaused("paused by alice")).state is State.PAUSED


def test_a_run_holds_a_bundle_for_each_rank_and_each_engine() -> None:
    micro = compose_config(["experiment=micro", "actor.world_size=2", "rollout.workers=3", "rollout.threads=4"])
    assert demand_of(micro) == Demand((Bundle(cpus=1.0),) * 2 + (Bundle(cpus=4.0),) * 3)
    assert said(demand_of(micro)) == "2 x 1 CPU, 3 x 4 CPU"


def test_on_devices_an_engine_holds_as_many_as_it_is_split_over() -> None:
    config = compose_config(["experiment=micro", "actor.device=cuda", "rollout.tensor_parallel=4"])
    assert demand_of(config) == Demand((Bundle(cpus=1.0, gpus=1.0), Bundle(cpus=1.0, gpus=4.0)))


def test_the_slowest_reward_is_told_over_all_samples_only() -> None:
    metrics = {
        "reward/judge/seconds_p95": 2.0,
        "reward/answer/seconds_p95": 0.5,
        "reward/judge/task/order/seconds_p95": 9.0,
    }
    assert slowest_reward(metrics) == 2.0
    assert slowest_reward({"reward/mean": 1.0}) is None
