"""What a client sends again, how long it waits, and what it makes of an answer."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
from made_experiments import experiment

from orchestrator.service import calls, transport
from orchestrator.service.answers import answer, failure, policy_update
from orchestrator.service.client_errors import (
    HINTS,
    AmbiguousReference,
    NotAllowed,
    NotFound,
    NotPossible,
    NotReady,
    NotSignedIn,
    RequestRefused,
    ServiceError,
    ServiceFailed,
    ServiceUnreachable,
    TooLarge,
    TooManyRequests,
    UnreadableAnswer,
)
from orchestrator.service.messages import Event, Experiment, State, User
from orchestrator.service.transport import Trail

BUSY = TooManyRequests("slow down", status=429, retry_after_s=3)
AWAY = NotReady("Redis does not answer", status=503)
LOST, NOT_SENT = ServiceUnreachable("cut", sent=True), ServiceUnreachable("closed port", sent=False)


def submitted() -> calls.Call[Experiment]:
    return calls.submit("demo", {}, priority="normal", name="", tags={}, code="", parent="", key="")


@pytest.mark.parametrize(
    ("call", "error", "again"),
    [
        (calls.experiment("a"), LOST, True),
        (calls.experiment("a"), AWAY, True),
        (submitted(), LOST, True),  # its key makes two of them one
        (calls.pause("a"), LOST, False),
        (calls.pause("a"), AWAY, False),
        (calls.pause("a"), NOT_SENT, True),
        (calls.pause("a"), BUSY, timedelta(seconds=3)),
        (calls.experiment("a"), TooManyRequests("", status=429, retry_after_s=3600), False),
        (calls.experiment("a"), RequestRefused("no", status=422), False),
    ],
)
def test_only_what_is_safe_is_sent_again(call: calls.Call[object], error: Exception, again: object) -> None:
    assert transport.again(call)(error) == again


def test_each_submit_has_a_key_of_its_own_and_keeps_it() -> None:
    first, second = submitted(), submitted()
    assert first.headers["Idempotency-Key"] != second.headers["Idempotency-Key"]
    assert first.encoded() == first.encoded()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((400, RequestRefused), (401, NotSignedIn), (403, NotAllowed), (404, NotFound), (409, NotPossible)),
        *((413, TooLarge), (415, RequestRefused), (422, RequestRefused), (429, TooManyRequests)),
        *((500, ServiceFailed), (502, ServiceFailed), (503, NotReady)),
    ],
)
def test_each_status_is_an_error_with_the_servers_words(status: int, kind: type[ServiceError]) -> None:
    body = msgspec.json.encode(
        {"error": {"message": "no such key", "field": "overrides[1]", "hint": "did you mean lr?"}}
    )
    error = failure(status, {"retry-after": "7"}, body)
    assert type(error) is kind
    assert (error.status, error.field, error.retry_after_s) == (status, "overrides[1]", 7.0)
    assert str(error) == ("no such key; did you mean lr?" if status != 401 else f"no such key; {HINTS[401]}")


def test_a_proxys_page_is_an_error_too() -> None:
    assert "answered 502: <html>" in str(failure(502, {}, b"<html>Bad gateway"))


def test_answers_are_typed_and_what_is_new_is_ignored() -> None:
    body = b'{"name": "anna", "scopes": ["read"], "colour": "red"}'
    assert answer(200, {}, body, User) == User("anna", ("read",))
    for broken in (b"{", b"[]", b'{"name": 3}'):
        with pytest.raises(UnreadableAnswer, match="as User"):
            answer(200, {}, broken, User)


def test_numbers_of_an_update_may_stand_beside_it_or_below_metrics() -> None:
    flat = policy_update({"update": 3, "stage": "reinforce", "reward": 0.5, "note": "text"})
    assert flat == policy_update({"update": 3, "stage": "reinforce", "metrics": {"reward": 0.5}})
    assert flat.metrics == {"reward": 0.5}


def test_a_watcher_waits_longer_each_time_and_gives_up_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(transport.time, "monotonic", lambda: now)
    trail = Trail("5-0")
    pauses = []
    with pytest.raises(ServiceUnreachable):
        while True:
            pauses.append(trail.pause(LOST))
            now += pauses[-1]
    assert pauses[:4] == [0.2, 0.4, 0.8, 1.6]
    assert max(pauses) == transport.LONGEST_PAUSE_S
    assert sum(pauses) >= transport.PATIENCE_S
    assert trail.headers == {"Last-Event-ID": "5-0"}
    with pytest.raises(NotFound):
        Trail().pause(NotFound("gone", status=404))


def test_the_end_is_told_apart_from_an_earlier_one() -> None:
    resumed = experiment(state=State.FAILED, ended_at=20.0)
    first, second = (Event("1-0", "demo", "state", at, {"state": "failed"}) for at in (10.0, 20.0))
    assert transport.tells_end(first) and not transport.is_last(first, resumed)
    assert transport.is_last(second, resumed)
    assert not transport.is_last(second, experiment(state=State.QUEUED))


def test_a_part_of_an_id_is_enough_where_only_one_fits() -> None:
    held = [experiment(id=id) for id in ("demo-4f0c21", "demo-991122", "mgrd_tiny-4f0c99")]
    assert transport.one_of("mgrd", held).id == "mgrd_tiny-4f0c99"
    assert transport.one_of("991122", held).id == "demo-991122"
    with pytest.raises(AmbiguousReference, match="demo-4f0c21, demo-991122"):
        transport.one_of("demo", held)
    with pytest.raises(NotFound, match="mgrd ps --all"):
        transport.one_of("other", held)
