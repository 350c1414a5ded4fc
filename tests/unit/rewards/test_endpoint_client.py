"""Every way a server can fail is a reason, and is tried again only where that may help."""

from __future__ import annotations

import asyncio
import gzip
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from endpoint_server import Answer, EndpointServer, Request

import rewards.endpoints.client as client_module
from rewards.endpoints.client import CallLimits, JsonClient
from rewards.endpoints.errors import BadRequest, BreakerOpen, CallFailed, EndpointFailed, RequestRefused
from rewards.endpoints.rates import Rates
from rewards.endpoints.urls import check_url

FAST = CallLimits(timeout_s=0.4, attempts=3, answer_bytes=10_000, patience_s=3.0, failures=3, pause_s=0.3)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-off in hundredths of a second."""
    monkeypatch.setattr(client_module, "BACKOFF_S", 0.01)
    monkeypatch.setattr(client_module, "JITTER_S", 0.01)


@pytest.fixture
def server() -> Iterator[EndpointServer]:
    with EndpointServer(lambda _: Answer({"fine": True})) as server:
        yield server


def talk(url: str, work: Callable[[JsonClient], Awaitable[Any]], limits: CallLimits = FAST, **more: Any) -> Any:
    async def run() -> Any:
        client = JsonClient(url, limits, Rates(4), **more)
        try:
            return await work(client)
        finally:
            await client.aclose()

    return asyncio.run(run())


async def ask(client: JsonClient) -> Any:
    return await client.post(b'{"question": 1}', lambda answer: answer)


async def failure(client: JsonClient) -> CallFailed:
    with pytest.raises(CallFailed) as caught:
        await ask(client)
    return caught.value


def scripted(*answers: Answer) -> Callable[[Request], Answer]:
    """One answer after the other, the last one for ever."""
    return lambda request: answers[min(request.number, len(answers) - 1)]


FINE = Answer({"fine": True})


@pytest.mark.parametrize(
    "trouble",
    [
        Answer("later", status=429),
        Answer("broken", status=500),
        Answer("starting", status=503, headers={"Retry-After": "0"}),
        Answer(drop=True),
        Answer(b"<html>a proxy's page</html>"),
        Answer({"fine": True}, delay_s=0.8),
        Answer(b'{"fine": true, "cut": ', headers={"Content-Length": "400"}),
    ],
    ids=["429", "500", "503", "dropped", "garbage", "slow", "cut"],
)
def test_what_may_pass_is_tried_again(server: EndpointServer, trouble: Answer) -> None:
    server.script = scripted(trouble, FINE)
    assert talk(server.url, ask) == {"fine": True}
    assert len(server.requests) == 2
    assert server.requests[0].body == server.requests[1].body == {"question": 1}


@pytest.mark.parametrize(
    ("trouble", "kind", "reason", "asked"),
    [
        (Answer("broken", status=500), EndpointFailed, "answered 500: \"broken\" (3 attempts)", 3),
        (Answer("later", status=429), RequestRefused, "answered 429: \"later\" (3 attempts)", 3),
        (Answer("later", status=429, headers={"Retry-After": "600"}), RequestRefused, "asks for 600 s of patience (1 attempt)", 1),
        (Answer(drop=True), EndpointFailed, "can't be reached: RemoteProtocolError", 3),
        (Answer(b"<html>"), EndpointFailed, "answered what can't be used", 3),
        (Answer(b"[" * 9000), EndpointFailed, "answered what can't be used", 3),
        (Answer(FINE.body, delay_s=0.8), EndpointFailed, "did not answer within 0.4 s (3 attempts)", 3),
        (Answer(FINE.body, drip_s=0.1), EndpointFailed, "did not answer within 0.4 s (3 attempts)", 3),
        (Answer("who?", status=401), EndpointFailed, "answered 401: \"who?\"", 1),
        (Answer("what?", status=404), EndpointFailed, "answered 404", 1),
        (Answer("too long a prompt", status=400), BadRequest, "answered 400: \"too long a prompt\"", 1),
        (Answer("", status=302, headers={"Location": "http://127.0.0.1:1/"}), EndpointFailed, "redirect, which is not followed", 1),
        (Answer(b"x" * 10_001), EndpointFailed, "answered more than 10000 bytes", 1),
        (Answer(gzip.compress(b"{}"), headers={"Content-Encoding": "gzip"}), EndpointFailed, "in the encoding 'gzip'", 1),
        (Answer("", status=204), EndpointFailed, "answered 204", 1),
    ],
)  # fmt: skip
def test_what_does_not_pass_is_a_reason(
    server: EndpointServer, trouble: Answer, kind: type[CallFailed], reason: str, asked: int
) -> None:
    server.script = scripted(trouble)
    error = talk(server.url, failure)
    assert type(error) is kind
    assert reason in str(error)
    assert len(server.requests) == asked


def test_a_server_that_is_down_is_a_reason() -> None:
    with EndpointServer(lambda _: FINE) as server:
        url = server.url
    error = talk(url, failure)
    assert isinstance(error, EndpointFailed) and "can't be reached: ConnectError" in str(error)


def test_retry_after_is_honoured_by_everybody(server: EndpointServer) -> None:
    server.script = scripted(Answer("later", status=429, headers={"Retry-After": "1"}), FINE)

    async def work(client: JsonClient) -> None:
        first = asyncio.create_task(ask(client))
        while not server.requests or server.at_once:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)  # the answer is read
        await asyncio.gather(first, *(ask(client) for _ in range(3)))

    talk(server.url, work)
    waited = [request.at - server.requests[0].at for request in server.requests[1:]]
    assert len(waited) == 4 and min(waited) >= 1.0 and max(waited) < 2.5


def test_retry_after_may_be_a_date() -> None:
    soon = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 30))
    assert 28 <= (client_module._retry_after_s(soon) or 0) <= 30
    assert client_module._retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert [client_module._retry_after_s(value) for value in (None, "", "soon", "nan", "2.5")] == [None] * 4 + [2.5]


def test_the_breaker_opens_fails_fast_and_closes_again(
    server: EndpointServer, caplog: pytest.LogCaptureFixture
) -> None:
    limits = CallLimits(timeout_s=0.4, attempts=1, answer_bytes=1000, failures=3, pause_s=0.3)
    server.script = scripted(Answer("broken", status=500))

    async def work(client: JsonClient) -> None:
        for _ in range(3):
            assert isinstance(await failure(client), EndpointFailed)
        assert client.breaker.state == "opened"
        assert f"the endpoint {server.url} is left alone for 0.3 s: it answered 500" in caplog.text
        began = time.monotonic()
        errors = [await failure(client) for _ in range(50)]
        assert time.monotonic() - began < 0.2
        assert all(isinstance(error, BreakerOpen) for error in errors)
        assert "3 calls in a row failed (the last one answered 500" in str(errors[0])
        assert len(server.requests) == 3
        await asyncio.sleep(0.35)
        assert isinstance(await failure(client), EndpointFailed)  # one tries, and it is still broken
        assert isinstance(await failure(client), BreakerOpen)
        assert len(server.requests) == 4
        server.script = scripted(FINE)
        await asyncio.sleep(0.35)
        assert await ask(client) == {"fine": True}
        assert client.breaker.state == "closed"

    talk(server.url, work, limits)


def test_one_call_tries_an_endpoint_that_was_left_alone_and_the_others_do_not_wait(server: EndpointServer) -> None:
    limits = CallLimits(timeout_s=2.0, attempts=1, answer_bytes=1000, failures=1, pause_s=0.1)
    server.script = scripted(Answer("broken", status=500), Answer({"fine": True}, delay_s=0.3))

    async def work(client: JsonClient) -> list[Any]:
        await failure(client)
        await asyncio.sleep(0.15)
        return await asyncio.gather(*(ask(client) for _ in range(5)), return_exceptions=True)

    results = talk(server.url, work, limits)
    assert [type(result) for result in results] == [dict] + [BreakerOpen] * 4
    assert len(server.requests) == 2


def test_requests_that_are_refused_do_not_open_the_breaker(server: EndpointServer) -> None:
    server.script = scripted(Answer("too long", status=400))

    async def work(client: JsonClient) -> str:
        for _ in range(5):
            await failure(client)
        return client.breaker.state

    assert talk(server.url, work) == "closed"


def test_a_key_that_the_endpoint_repeats_does_not_show(
    server: EndpointServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import rewards.secrets as secrets_module

    key = "sk-very-secret-0123456789"
    monkeypatch.setattr(secrets_module, "_known", {})
    monkeypatch.setattr(secrets_module, "_pattern", None)
    monkeypatch.setenv("JUDGE_KEY", key)
    server.script = lambda request: Answer(
        {"error": {"message": f"Incorrect API key provided: {request.headers['Authorization']} {'x' * 190} {key}"}},
        status=401,
    )
    with caplog.at_level(logging.DEBUG):
        error = talk(server.url, failure, token=secrets_module.secret("JUDGE_KEY"))
    assert server.requests[0].headers["Authorization"] == f"Bearer {key}"
    assert "Bearer [secret JUDGE_KEY]" in str(error)
    assert key not in str(error) and key[:8] not in str(error)
    assert key not in caplog.text and caplog.text


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://example.com/score", "http:// or https://"),
        ("file:///etc/passwd", "http:// or https://"),
        ("example.com/score", "http:// or https://"),
        ("https:///score", "name a host"),
        ("https://example.com/a b", "http:// or https://"),
        ("https://example.com:99999/", "impossible port"),
        ("https://user:word@example.com/", "name a secret instead"),
        ("https://example.com/score?api_key=abc", "name a secret instead"),
        ("https://example.com/#x", "fragment"),
    ],
)
def test_a_url_that_will_not_do_is_refused(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        check_url(url)
    assert "word" not in str(caught.value).split("carries")[0] and "abc" not in str(caught.value)


def test_a_url_that_will_do_is_kept() -> None:
    assert check_url("http://judge:8000/v1?deployment=a") == "http://judge:8000/v1?deployment=a"
