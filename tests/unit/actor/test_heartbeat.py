"""Who counts as hung or stuck: silence, time in which nobody looked, progress of some rank."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actor.heartbeat import Failure, Finding, Watch, WatchLimits
from actor.phases import Beat

LIMITS = WatchLimits(heartbeat_s=1.0, hang_s=5.0, teardown_s=10.0)
RANKS = range(3)


def watched(
    until_s: float,
    *,
    silent: set[int],
    progress_s: float = 1e9,
    phase_s: float = 0.5,
    away: tuple[float, float] = (0, 0),
) -> tuple[float, Finding | None]:
    """A call of `until_s` seconds, looked at every half second but between `away`; silent ranks never answer, the others at once,
    in a new phase every `phase_s`. When something was found, and what."""
    watch = Watch(RANKS, LIMITS, progress_s, 0.0)
    now = 0.0
    while now < until_s:
        now = away[1] if away[0] < now < away[1] else now + 0.5
        watch.look(now)
        for rank in watch.due(now):
            watch.asked(rank)
            if rank not in silent:
                watch.heard(rank, Beat("forward", int(now / phase_s), now % phase_s), now)
        if finding := watch.finding(set(RANKS), now):
            return now, finding
    return now, None


def test_ranks_that_answer_are_never_found() -> None:
    assert watched(100.0, silent=set())[1] is None


@given(st.sets(st.sampled_from(RANKS), min_size=1))
def test_a_silent_rank_is_found_after_the_limit_and_not_before(silent: set[int]) -> None:
    when, finding = watched(100.0, silent=silent)
    assert finding is not None and finding.failure is Failure.HUNG and finding.rank in silent
    assert LIMITS.hang_s <= when <= LIMITS.hang_s + 2 * LIMITS.heartbeat_s


@given(st.floats(0.6, 3.0), st.floats(20.0, 1000.0))
def test_time_in_which_nobody_looked_blames_nobody(begin: float, length: float) -> None:
    when, finding = watched(begin + length + 4.0, silent={1}, away=(begin, begin + length))
    assert finding is None or when >= length + LIMITS.hang_s - 2 * LIMITS.heartbeat_s


def test_ranks_that_answer_but_never_enter_another_phase_are_stuck() -> None:
    when, finding = watched(100.0, silent=set(), progress_s=20.0, phase_s=1e9)
    assert finding is not None and finding.failure is Failure.STUCK
    assert 20.0 <= when <= 22.0


def test_the_rank_that_others_wait_for_is_the_stuck_one() -> None:
    """It has been in its phase the longest: it never came to the collective."""
    watch = Watch(RANKS, LIMITS, 10.0, 0.0)
    for rank, seconds in {0: 9.0, 1: 11.0, 2: 9.5}.items():
        watch.asked(rank)
        watch.heard(rank, Beat("forward", 1, seconds), 11.0)
    watch.look(22.0)
    finding = watch.finding(set(RANKS), 42.0)
    assert finding is not None and (finding.failure, finding.rank) == (Failure.STUCK, 1)


def test_a_rank_that_has_returned_is_not_missed() -> None:
    watch = Watch(RANKS, LIMITS, 1e9, 0.0)
    watch.asked(1)
    for now in range(1, 30):
        watch.look(float(now))
    assert watch.finding({0, 2}, 29.0) is None
    found = watch.finding({1}, 29.0)
    assert found is not None and found.failure is Failure.HUNG


def test_limits_that_find_a_rank_before_it_is_asked_are_refused() -> None:
    with pytest.raises(ValueError, match="at most half of hang_s"):
        WatchLimits(heartbeat_s=4.0, hang_s=5.0)
    with pytest.raises(ValueError, match="teardown_s"):
        WatchLimits(teardown_s=0.0)
