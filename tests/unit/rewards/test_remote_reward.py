"""Reward `remote` against a server: the schema, and every way an answer can be of no use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from endpoint_server import Answer, EndpointServer, Request, results
from hypothesis import given
from hypothesis import strategies as st

import rewards.endpoints.client as client_module
import rewards.secrets as secrets_module
from rewards import RewardError, RewardTerm, Sample
from rewards.endpoints.remote_wire import read_results
from rewards.endpoints.remoting import packed
from rewards.endpoints.runner import EndpointRunner
from rewards.registry import resolve
from rewards.sample_wire import encode_sample
from rewards.sandbox_wire import Outcome, Unit


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "BACKOFF_S", 0.01)
    monkeypatch.setattr(client_module, "JITTER_S", 0.01)
    monkeypatch.setattr(secrets_module, "_known", {})
    monkeypatch.setattr(secrets_module, "_pattern", None)


def by_length(request: Request) -> Answer:
    """The score of a reply is its length."""
    return results(*({"score": len(sample["reply"])} for sample in request.body["samples"]))


@pytest.fixture
def server() -> Iterator[EndpointServer]:
    with EndpointServer(by_length) as server:
        yield server


def line(reply: str = "A violin.") -> bytes:
    audio = [{"path": "/home/me/private/clip.wav", "sha256": "ab12", "seconds": 2.5}]
    question = {"id": "q", "prompt": "Which instrument?", "answer": "violin", "truth": {"events": []}, "audio": audio}
    return encode_sample(
        Sample("q/0", question, f"<think>\nBows.\n</think>\n{reply}", "Bows.", reply, True, True, 9, 2)
    )


def score(server: EndpointServer, lines: list[bytes], **parameters: Any) -> list[Outcome]:
    term = resolve(RewardTerm("remote", 1.0, "any", {"url": f"{server.url}/score"} | parameters))
    with EndpointRunner([term]) as runner:
        return runner.score(lines, [Unit(i, 0) for i in range(len(lines))])


def test_samples_travel_in_batches_and_scores_come_back_in_order(server: EndpointServer) -> None:
    outcomes = score(server, [line("x" * i) for i in range(1, 11)], batch=4, options={"strict": True})
    assert [outcome.score for outcome in outcomes] == list(range(1, 11))
    assert sorted(len(request.body["samples"]) for request in server.requests) == [2, 4, 4]
    request = server.requests[0]
    assert request.path == "/score" and request.body["version"] == 1 and request.body["options"] == {"strict": True}


def test_a_sample_is_sent_whole_but_for_the_paths_of_this_machine(server: EndpointServer) -> None:
    score(server, [line()])
    sample = server.requests[0].body["samples"][0]
    assert {name: sample[name] for name in ("trajectory_id", "reasoning", "reply", "well_formed", "finished")} == {
        "trajectory_id": "q/0", "reasoning": "Bows.", "reply": "A violin.", "well_formed": True, "finished": True,
    }  # fmt: skip
    assert sample["question"]["audio"] == [{"sha256": "ab12", "seconds": 2.5}]
    assert "private" not in str(server.requests[0].body)


def test_parts_and_notes_are_kept(server: EndpointServer) -> None:
    server.script = lambda _: results({"score": 0.5, "parts": {"pitch": 1, "tempo": 0.0}, "notes": "tempo\x00 missed"})
    (outcome,) = score(server, [line()])
    assert (outcome.score, outcome.parts, outcome.notes) == (0.5, {"pitch": 1.0, "tempo": 0.0}, "tempo missed")


def test_each_bad_result_costs_one_score(server: EndpointServer) -> None:
    cases: list[tuple[Any, str]] = [
        ({"error": "no such clip"}, "remote reports an error: no such clip"),
        ({"error": ""}, "remote reports an error: no text"),
        ({"score": 1, "error": {"code": 7}}, "remote reports an error: {'code': 7}"),
        ({"score": None}, "remote gave a score of type NoneType, not a number"),
        ({}, "remote gave a score of type NoneType, not a number"),
        ({"score": "0.5"}, "remote gave a score of type str, not a number"),
        ({"score": True}, "remote gave a score of type bool, not a number"),
        ({"score": float("nan")}, "remote gave the score nan, not a finite number"),
        ({"score": float("inf")}, "remote gave the score inf, not a finite number"),
        ({"score": 10**400}, "remote gave the score inf, not a finite number"),
        ({"score": 1, "parts": {"pitch": float("nan")}}, "remote gave the part 'pitch' nan, not a finite number"),
        ({"score": 1, "parts": [1]}, "remote gave parts that are no object"),
        (0.5, "remote gave a result of type float, not an object"),
        (None, "remote gave a result of type NoneType, not an object"),
    ]
    server.script = lambda _: results({"score": 1}, *(result for result, _ in cases), {"score": 0})
    outcomes = score(server, [line()] * (len(cases) + 2))
    assert (outcomes[0].score, outcomes[-1].score) == (1.0, 0.0)
    for outcome, (_, reason) in zip(outcomes[1:-1], cases, strict=True):
        assert outcome.score is None and outcome.reason.startswith(reason)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (results({"score": 1}), "1 results for 2 samples"),
        (results(*[{"score": 1}] * 3), "3 results for 2 samples"),
        (Answer([1, 2]), 'no object with a list "results"'),
        (Answer({"version": 1, "results": {"0": 1}}), 'no object with a list "results"'),
        (Answer({"results": [{"score": 1}] * 2}), "its version is 'None', not 1"),
        (Answer({"version": 2, "results": [{"score": 1}] * 2}), "its version is '2', not 1"),
        (Answer(b"<html>busy</html>"), "answered what can't be used"),
        (results(*[{"score": 1}] * 2, service="pitch 2.0"), "from the service 'pitch 2.0', not from 'pitch 1.4'"),
        (results({"score": 1, "notes": "x" * 3000}, {"score": 1}), "answered more than 2000 bytes"),
    ],
)
def test_an_answer_of_the_wrong_shape_is_invalid_for_its_batch(
    server: EndpointServer, answer: Answer, reason: str
) -> None:
    server.script = lambda _: answer
    service = "pitch 1.4" if "service" in reason else ""
    outcomes = score(server, [line(), line()], attempts=1, answer_mb=0.002, service=service)
    assert [outcome.score for outcome in outcomes] == [None, None]
    assert all(reason in outcome.reason for outcome in outcomes)


def test_the_service_that_was_asked_for_is_accepted(server: EndpointServer) -> None:
    server.script = lambda _: results({"score": 1}, service="pitch 1.4")
    assert score(server, [line()], service="pitch 1.4")[0].score == 1.0


def test_a_retry_carries_the_key_of_the_first_try(server: EndpointServer) -> None:
    server.script = lambda request: by_length(request) if request.number else Answer("busy", status=503)
    assert score(server, [line("four")])[0].score == 4
    assert len({request.headers["Idempotency-Key"] for request in server.requests}) == 1 and len(server.requests) == 2


def test_the_sample_that_a_service_chokes_on_is_found_and_the_others_are_scored(server: EndpointServer) -> None:
    def choking(request: Request) -> Answer:
        bad = any(sample["reply"] == "poison" for sample in request.body["samples"])
        return Answer("can't read sample", status=422) if bad else by_length(request)

    server.script = choking
    lines = [line("poison" if i in (3, 17) else "fine") for i in range(32)]
    outcomes = score(server, lines)
    assert [i for i, outcome in enumerate(outcomes) if outcome.score is None] == [3, 17]
    assert outcomes[3].reason == 'remote answered 422: "can\'t read sample"'
    assert len(server.requests) <= 2 * 2 * 6


def test_a_sample_that_is_too_large_is_not_sent_and_batches_keep_their_size(server: EndpointServer) -> None:
    outcomes = score(server, [line("x" * size) for size in (10, 300, 3000, 20, 300, 300, 30)], request_mb=0.002)
    assert [outcome.score for outcome in outcomes] == [10, 300, None, 20, 300, 300, 30]
    assert "was not asked: the sample has" in outcomes[2].reason and "a request 2000" in outcomes[2].reason
    assert all(int(request.headers["Content-Length"]) <= 2000 for request in server.requests)


def test_a_service_that_is_down_fails_fast_with_its_reason(server: EndpointServer) -> None:
    server.stop()
    outcomes = score(server, [line()] * 40, batch=1, attempts=1, concurrency=1, breaker_failures=3)
    assert all(outcome.score is None for outcome in outcomes)
    assert outcomes[0].reason.startswith("remote can't be reached: ConnectError")
    assert "because 3 calls in a row failed (the last one can't be reached" in outcomes[-1].reason


def test_one_that_is_published_under_a_name_of_its_own_speaks_under_it(server: EndpointServer) -> None:
    server.script = lambda _: results({"error": "no clip"})
    term = replace(resolve(RewardTerm("remote", 1.0, "any", {"url": server.url})), name="pitch", function="remote")
    with EndpointRunner([term]) as runner:
        assert runner.score([line()], [Unit(0, 0)])[0].reason == "pitch reports an error: no clip"


def test_a_silent_service_is_given_up(server: EndpointServer) -> None:
    server.script = lambda request: Answer(by_length(request).body, delay_s=2)
    assert score(server, [line()], limit_s=0.3)[0].reason == "remote gave no results within 0.3 s"
    assert (
        score(server, [line()], timeout_s=0.3, attempts=1)[0].reason == "remote did not answer within 0.3 s (1 attempt)"
    )


def test_the_token_goes_to_the_service_and_nowhere_else(
    server: EndpointServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "token-0123456789abcdef"
    monkeypatch.setenv("PITCH_TOKEN", key)
    server.script = lambda _: results({"error": f"who is {key}?"}, {"score": 1, "notes": key, "parts": {key: 1}})
    failed, scored = score(server, [line(), line()], secret="PITCH_TOKEN")
    assert server.requests[0].headers["Authorization"] == f"Bearer {key}"
    assert failed.reason == "remote reports an error: who is [secret PITCH_TOKEN]?"
    assert scored.notes == "[secret PITCH_TOKEN]" and scored.parts == {"[secret PITCH_TOKEN]": 1.0}


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"url": "unix:///run/reward.sock"}, "http:// or https://"),
        ({"url": "https://u:p@example.com"}, "name a secret instead"),
        ({"batch": 0}, "batch is 0"),
        ({"request_mb": 0}, "request_mb is 0"),
        ({"options": [1]}, "options is a mapping"),
        ({"timeout_s": float("inf")}, "timeout_s is inf"),
    ],
)
def test_parameters_that_can_not_work_are_refused(parameters: dict[str, Any], reason: str) -> None:
    with pytest.raises(RewardError, match=reason):
        resolve(RewardTerm("remote", 1.0, "any", {"url": "https://example.com"} | parameters))


Json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


Entry = Json | st.fixed_dictionaries({"score": Json, "parts": Json, "notes": Json})
Schema = st.fixed_dictionaries({"version": st.just(1), "results": st.lists(Entry, max_size=3)})


@given(answer=Json | Schema)
def test_whatever_is_answered_is_an_outcome_a_sample_or_refused(answer: Any) -> None:
    try:
        outcomes = read_results(answer, 2)
    except ValueError as error:
        assert str(error)
        return
    assert len(outcomes) == 2
    for outcome in outcomes:
        assert (outcome.score is None) == bool(outcome.reason)
        outcome.notes.encode()


@given(sizes=st.lists(st.integers(0, 50)), most=st.integers(1, 8), limit=st.integers(1, 100))
def test_batches_keep_order_number_and_size(sizes: list[int], most: int, limit: int) -> None:
    entries = [(i, b"x" * size) for i, size in enumerate(sizes)]
    batches = list(packed(entries, most, limit))
    assert [entry for batch in batches for entry in batch] == entries
    for batch in batches:
        assert 1 <= len(batch) <= most
        assert len(batch) == 1 or sum(len(data) + 1 for _, data in batch) <= limit
