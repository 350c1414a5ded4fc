"""When a dead trainer is started again: lost ones, while the run gets on; never the work's own exception."""

from __future__ import annotations

from typing import Any

from actor import Failure, TrainerDied
from orchestrator.revival import Revivals


def died(failure: Failure = Failure.DIED) -> TrainerDied:
    return TrainerDied(
        1, "the process died during sft_step", failure, phases={0: "waiting for a call", 1: "forward 1/2"}
    )


def run_state(update: int) -> dict[str, Any]:
    return {"stage": "reinforce", "checkpoint": f"update_{update:06d}", "update": update}


def test_a_lost_trainer_is_started_again_and_the_record_says_where_it_was() -> None:
    state: dict[str, Any] = {"working": run_state(4), "starts": 1}
    record = Revivals(state, most=3).take(died())
    assert record is not None and state["trainer_deaths"] == [record]
    assert (record["rank"], record["phase"], record["failure"]) == (1, "forward 1/2", "died")
    assert (record["stage"], record["checkpoint"]) == ("reinforce", "update_000004")


def test_deaths_at_one_place_end_the_run_after_the_limit() -> None:
    revivals = Revivals({"working": run_state(4), "starts": 1}, most=2)
    assert revivals.take(died()) and revivals.take(died(Failure.HUNG))
    death = died()
    assert revivals.take(death) is None
    assert "died 3 times at the same place (actor.restarts=2)" in death.__notes__[0]


def test_a_checkpoint_between_two_deaths_is_progress() -> None:
    state: dict[str, Any] = {"working": run_state(1), "starts": 1}
    revivals = Revivals(state, most=1)
    for update in range(1, 6):
        state["working"] = run_state(update)
        assert revivals.take(died()) is not None
    assert revivals.take(died()) is None


def test_a_resume_by_hand_begins_to_count_anew() -> None:
    state: dict[str, Any] = {"working": run_state(1), "starts": 1}
    assert Revivals(state, most=1).take(died()) and Revivals(state, most=1).take(died()) is None
    state["starts"] = 2
    assert Revivals(state, most=1).take(died()) is not None


def test_an_exception_of_the_work_and_a_rank_that_cannot_be_ended_are_not_tried_again() -> None:
    for failure in (Failure.RAISED, Failure.UNENDED):
        state: dict[str, Any] = {"working": run_state(1)}
        assert Revivals(state, most=3).take(died(failure)) is None
        assert not state.get("trainer_deaths")


def test_no_restarts_means_the_first_death_ends_the_run() -> None:
    assert Revivals({"working": run_state(1)}, most=0).take(died()) is None
