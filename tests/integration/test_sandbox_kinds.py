"""Functions of every form: async, batch, returning a number, a verdict or a dict."""

from __future__ import annotations

import time
from collections.abc import Iterator

import many_rewards
import pytest
from sandbox_room import Room, room

from rewards.messages import RewardTerm
from rewards.registry import resolve
from rewards.sandbox_wire import CAPACITY, Outcome

MEMORY_MB = 512


@pytest.fixture(scope="module")
def returned() -> dict[str, Outcome]:
    with room("returning", memory_mb=MEMORY_MB) as there:
        return dict(zip(many_rewards.RETURNS, there.score(list(many_rewards.RETURNS)), strict=True))


@pytest.mark.parametrize(
    ("value", "score", "parts", "notes"),
    [
        ("float", 0.25, {}, ""),
        ("int", 1.0, {}, ""),
        ("bool", 1.0, {}, ""),
        ("numpy", 0.5, {}, ""),
        ("numpy flag", 1.0, {}, ""),
        ("verdict", 0.5, {"detail": 0.75}, "sounds right"),
        ("dict", 0.5, {"pitch": 1.0, "tempo": 0.25}, ""),
    ],
)
def test_a_score_comes_with_its_parts_and_notes(
    returned: dict[str, Outcome], value: str, score: float, parts: dict[str, float], notes: str
) -> None:
    outcome = returned[value]
    assert (outcome.score, outcome.reason, outcome.parts, outcome.notes) == (score, "", parts, notes)
    assert type(outcome.score) is float and outcome.seconds > 0


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("array", "returned ndarray, not a number"),
        ("invalid verdict", "the judge said nothing"),
        ("dict without", 'returned a dict without "score"'),
        ("dict of text", "returned a part 'pitch' that is str, not a number"),
        ("dict of nan", "returned a part 'pitch' that is nan, not a finite number"),
        ("dict of none", "returned a dict with the score NoneType, not a number"),
        ("many parts", "returned 100 scores, more than 64"),
        ("none", "returned None"),
        ("text", "returned str, not a number"),
        ("slippery", "x" * 500),
        ("complex", "returned complex, not a number"),
        ("huge", "raised OverflowError: int too large to convert to float"),
    ],
)
def test_what_is_no_score_is_a_reason(returned: dict[str, Outcome], value: str, reason: str) -> None:
    assert returned[value].score is None
    assert returned[value].reason == f"returning {reason}"


@pytest.fixture(scope="module")
def waiting() -> Iterator[Room]:
    with room("awaiting", memory_mb=MEMORY_MB) as there:
        yield there


def test_async_functions_wait_together(waiting: Room) -> None:
    began = time.monotonic()
    outcomes = waiting.score(["good"] * 60)
    assert [outcome.score for outcome in outcomes] == [1.0] * 60
    assert time.monotonic() - began < 60 * 0.2 / 2
    assert all(outcome.seconds >= 0.2 for outcome in outcomes)


AWAITED = {
    "hang": "timed out after 1.0 s and was cancelled",
    "caught": "timed out after 1.0 s and was cancelled",
    "obstinate": "timed out after 1.0 s and was cancelled",
    "block": "timed out after 1.0 s and was killed",
    "side task": "timed out after 1.0 s and was killed",
    "die": "ended its process (exit status 5)",
    "raise": "raised ValueError: no such option",
    "exit": "raised SystemExit: 3",
    "bomb": "ran out of memory (limit 512 MB)",
}


@pytest.mark.parametrize("deed", AWAITED)
def test_an_async_function_that_fails_fails_alone(waiting: Room, deed: str) -> None:
    before, failed, after, rich = waiting.score(["good", deed, "good", "dict"])
    assert failed.score is None
    assert failed.reason == f"awaiting {AWAITED[deed]}"
    assert before.score == after.score == 1.0
    assert (rich.score, rich.parts) == (0.5, {"detail": 0.25})


def test_many_async_failures_in_one_batch(waiting: Room) -> None:
    deeds = [deed for kind in ("raise", "block", "bomb", "hang") for deed in (kind, *["good"] * 10)]
    outcomes = waiting.score(deeds)
    assert [outcome.score for outcome in outcomes] == [1.0 if deed == "good" else None for deed in deeds]


@pytest.fixture(scope="module")
def counted() -> Iterator[Room]:
    with room("counting", "plain", memory_mb=MEMORY_MB) as there:
        yield there


def test_a_batch_function_gets_many_samples_at_once_and_its_own_copies(counted: Room) -> None:
    outcomes = counted.score(["good"] * 20)
    assert [outcome.score for outcome in outcomes[::2]] == [8.0] * 16 + [4.0] * 4
    assert [outcome.score for outcome in outcomes[1::2]] == [1.0] * 20


BATCHED = {
    "raise": "raised ValueError: no such option",
    "hang": "timed out after 1.0 s and was killed",
    "die": "ended its process (exit status 5)",
    "bomb": "ran out of memory (limit 512 MB)",
    "short": "returned 0 scores for 1 sample",
    "number": "returned float for a list of samples, not a list",
}


@pytest.mark.parametrize("deed", BATCHED)
def test_only_the_guilty_sample_of_a_batch_call_is_invalid(counted: Room, deed: str) -> None:
    outcomes = counted.score(["good", deed, "good", "good"])
    assert outcomes[2].reason == f"counting {BATCHED[deed]}"
    assert [outcome.score for outcome in outcomes[::2]] == [1.0, None, 1.0, 1.0]
    assert [outcome.score for outcome in outcomes[1::2]] == [1.0] * 4


def test_one_bad_score_of_a_batch_call_costs_no_other(counted: Room) -> None:
    outcomes = counted.score(["good", "nan", "good"])[::2]
    assert [outcome.score for outcome in outcomes] == [3.0, None, 3.0]
    assert outcomes[1].reason == "counting returned nan, not a finite number"


def test_a_function_can_not_change_its_parameters_for_the_next_call() -> None:
    with room("listing", parameters={"words": ["a"]}) as there:
        assert [outcome.score for outcome in there.score(["good"] * 3)] == [2.0] * 3


def test_more_units_than_fit_a_request_keep_their_order() -> None:
    deeds = [str(i) if i % 700 else "none" for i in range(2 * CAPACITY + 300)]
    with room("plain", "returning") as there:
        outcomes = there.score(deeds)
    assert [outcome.score for outcome in outcomes[::2]] == [1.0] * len(deeds)
    reasons = [outcome.reason for outcome in outcomes[1::2]]
    assert reasons == [
        f"returning raised KeyError: '{deed}'" if deed != "none" else "returning returned None" for deed in deeds
    ]


def test_a_sample_that_does_not_fit_the_memory_is_invalid_and_the_others_are_scored() -> None:
    with room("plain") as there:
        small, large = there.score(["good", "x" * (20 << 20)])
    assert small.score == 1.0
    assert large.reason == "plain can't hold a sample of 20 MB in 256 MB of memory"


def test_large_samples_travel_in_several_requests() -> None:
    with room("plain") as there:
        assert {outcome.score for outcome in there.score(["x" * (5 << 20)] * 5)} == {1.0}
        assert there.sandbox.processes_started == 1


def test_every_declared_name_resolves() -> None:
    assert resolve(RewardTerm("counting", 1.0, "any")).batch == 8
