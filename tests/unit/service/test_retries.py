"""What failed through no fault of its own is tried again, later each time, and not for ever."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.service.messages import Cause
from orchestrator.service.retries import Retry, RetrySettings, after_failure, backoff_s

NOW = 1_000.0
LOST = Cause.INFRASTRUCTURE


def fails(
    retries: dict[str, int], *, update: int = 0, id: str = "demo-1a2b3c", limits: RetrySettings | None = None
) -> Retry:
    """One more failure; counts it where it is tried again, as the store does."""
    retry = after_failure(id, LOST, dict(retries), "machine lost", update=update, now=NOW, settings=limits)
    if retry.again:
        retries[retry.retry_of] = retries.get(retry.retry_of, 0) + 1
    return retry


@pytest.mark.parametrize("cause", [Cause.NONE, Cause.USER, Cause.RUN])
def test_what_a_user_or_the_run_itself_caused_is_not_tried_again(cause: Cause) -> None:
    retry = after_failure("demo", cause, {}, "loss is not a number", update=3, now=NOW)
    assert retry == Retry(False, "loss is not a number")


def test_a_lost_machine_is_tried_again_as_often_as_the_budget_says_and_later_each_time() -> None:
    retries: dict[str, int] = {}
    tries = [fails(retries) for _ in range(4)]
    assert [retry.again for retry in tries] == [True, True, True, False]
    waits = [retry.not_before - NOW for retry in tries[:3]]
    assert waits[0] >= 10 and waits == sorted(waits) and waits[2] <= 50
    assert tries[0].reason == f"machine lost; tried again in {waits[0]:.0f} s (1 of 3)"
    assert tries[3].reason == "machine lost; given up after 3 more tries without a new policy update"


def test_a_run_that_got_on_has_its_budget_back() -> None:
    retries: dict[str, int] = {}
    for update in (0, 0, 0, 7, 7, 7):
        assert fails(retries, update=update).again
    assert not fails(retries, update=7).again
    assert fails(retries, update=8).again


def test_a_run_that_fell_back_to_an_older_checkpoint_has_not_got_on() -> None:
    retries: dict[str, int] = {}
    assert [fails(retries, update=update).again for update in (9, 6, 8, 9)] == [True, True, True, False]


def test_counts_of_another_cause_or_of_another_make_are_left_alone() -> None:
    assert fails({"run@0": 9, "infrastructure": 9, "infrastructure@x": 9}).retry_of == "infrastructure@0"


@given(
    st.text(max_size=12), st.integers(0, 400), st.floats(0, 100), st.floats(1, 10), st.floats(0, 1000), st.floats(0, 1)
)
@settings(max_examples=60, deadline=None)
def test_waits_stay_below_the_cap_and_its_jitter(
    id: str, used: int, first_s: float, factor: float, cap_s: float, jitter: float
) -> None:
    limits = RetrySettings(first_s=first_s, factor=factor, cap_s=cap_s, jitter=jitter)
    wait = backoff_s(id, used, limits)
    assert min(first_s, cap_s) <= wait <= cap_s * (1 + jitter)
    assert wait == backoff_s(id, used, limits)


def test_experiments_that_failed_together_do_not_come_back_together() -> None:
    waits = {fails({}, id=f"run-{i}").not_before for i in range(50)}
    assert len(waits) == 50
    assert max(waits) - min(waits) > 1.5


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=60), st.integers(0, 4))
def test_tries_are_bounded_by_the_budget_for_each_step_forward(updates: list[int], budget: int) -> None:
    retries: dict[str, int] = {}
    limits = RetrySettings(budget={LOST: budget})
    tried = sum(fails(retries, update=update, limits=limits).again for update in updates)
    assert tried <= budget * len(set(updates))
