"""Reward `judge` against a server: verdicts, rationales, votes, retries, costs, budget, secrets."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from endpoint_server import Answer, EndpointServer, Request, completion

import rewards.endpoints.client as client_module
import rewards.secrets as secrets_module
from rewards import RewardError, RewardTerm, Sample
from rewards.endpoints.ledger import Cost, read_costs
from rewards.endpoints.runner import EndpointRunner
from rewards.registry import ResolvedTerm, resolve
from rewards.sample_wire import encode_sample
from rewards.sandbox_wire import Outcome, Unit

PRICES = {"price_in": 2.0, "price_out": 10.0}  # 100 tokens in and 20 out are 0.0004


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "BACKOFF_S", 0.01)
    monkeypatch.setattr(client_module, "JITTER_S", 0.01)
    monkeypatch.setattr(secrets_module, "_known", {})
    monkeypatch.setattr(secrets_module, "_pattern", None)


@pytest.fixture
def server() -> Iterator[EndpointServer]:
    with EndpointServer(lambda _: completion("It names the same instrument.\nLEVEL: 4")) as server:
        yield server


def line(reply: str = "A violin.", **question: Any) -> bytes:
    fields = {
        "id": "q",
        "prompt": "Which instrument plays?",
        "answer": "violin",
        "choices": (),
        "audio": (),
        "history": (),
        "rubric": "",
    }
    return encode_sample(Sample("q/0", fields | question, reply, "", reply, False, True, 4, 0))


def term(server: EndpointServer, **parameters: Any) -> ResolvedTerm:
    return resolve(RewardTerm("judge", 1.0, "any", {"url": f"{server.url}/v1", "model": "tiny"} | parameters))


def judge(server: EndpointServer, lines: list[bytes], **parameters: Any) -> list[Outcome]:
    with EndpointRunner([term(server, **parameters)]) as runner:
        return runner.score(lines, [Unit(i, 0) for i in range(len(lines))])


def shown(request: Request) -> str:
    return str(request.body["messages"][0]["content"])


def by_reply(levels: dict[str, str]) -> Callable[[Request], Answer]:
    """Answers by what the message contains."""
    return lambda request: completion(next(answer for reply, answer in levels.items() if reply in shown(request)))


def test_a_verdict_is_the_scalar_of_the_level_with_the_rationale_beside_it(server: EndpointServer) -> None:
    (outcome,) = judge(server, [line()])
    assert (outcome.score, outcome.reason, outcome.notes) == (0.75, "", "4: It names the same instrument.")
    assert outcome.seconds > 0
    request = server.requests[0]
    assert request.path == "/v1/chat/completions" and "Authorization" not in request.headers
    assert {name: request.body[name] for name in ("model", "temperature", "max_tokens")} == {
        "model": "tiny", "temperature": 0.0, "max_tokens": 512,
    }  # fmt: skip
    assert "A violin." in shown(request) and set(request.body) == {"model", "messages", "temperature", "max_tokens"}


def test_outcomes_come_in_the_order_of_the_units(server: EndpointServer) -> None:
    server.script = by_reply({f"number {i} ": f"LEVEL: {i}" for i in range(1, 6)})
    outcomes = judge(server, [line(f"number {i} .") for i in (3, 1, 5, 4, 2)])
    assert [outcome.score for outcome in outcomes] == [0.5, 0.0, 1.0, 0.75, 0.25]


def test_levels_prompt_and_request_follow_the_parameters(server: EndpointServer) -> None:
    server.script = lambda _: completion('{"rationale": "Fine.", "level": "good"}')
    (outcome,) = judge(
        server,
        [line()],
        levels={"bad": -1, "good": 2},
        answer="schema",
        prompt="Grade {{ reply }}{% include 'answer_form' %}",
        temperature=None,
        max_tokens=0,
        extra={"max_completion_tokens": 99},
    )
    assert (outcome.score, outcome.notes) == (2.0, "good: Fine.")
    body = server.requests[0].body
    assert shown(server.requests[0]).startswith("Grade A violin.")
    assert body["max_completion_tokens"] == 99 and "temperature" not in body and "max_tokens" not in body
    assert body["response_format"]["json_schema"]["schema"]["properties"]["level"]["enum"] == ["bad", "good"]


def test_an_answer_that_can_not_be_read_is_invalid_and_keeps_its_text(server: EndpointServer) -> None:
    server.script = lambda _: completion("I liked it a lot, five stars!")
    (outcome,) = judge(server, [line()], retries=2)
    assert outcome.score is None
    assert outcome.reason == "judge gave an answer that can't be read: its last line is not `LEVEL: …` (3 answers)"
    assert outcome.notes == "I liked it a lot, five stars!"
    assert [request.body["temperature"] for request in server.requests] == [0.0, 0.7, 0.7]


@pytest.mark.parametrize(
    "unreadable", [completion(None), completion(""), completion("LEVEL: 1", finish="length"), completion("LEVEL: 7")]
)
def test_another_answer_is_asked_for_after_one_that_can_not_be_read(server: EndpointServer, unreadable: Answer) -> None:
    server.script = lambda request: completion("LEVEL: 5") if request.number else unreadable
    (outcome,) = judge(server, [line()])
    assert outcome.score == 1.0 and len(server.requests) == 2


@pytest.mark.parametrize(
    "body", [{}, [], {"choices": []}, {"choices": [{"message": {"content": 5}}]}, "LEVEL: 5", None]
)
def test_what_is_no_chat_completion_is_invalid(server: EndpointServer, body: Any) -> None:
    server.script = lambda _: Answer(body)
    (outcome,) = judge(server, [line()], attempts=2)
    assert outcome.score is None and "answered what can't be used" in outcome.reason and len(server.requests) == 2


def test_one_bad_sample_costs_one_verdict(server: EndpointServer) -> None:
    server.script = lambda request: (
        Answer("too long", status=400) if "poison" in shown(request) else completion("LEVEL: 5")
    )
    outcomes = judge(server, [line(), line("poison"), line(answer=""), b"not a sample", line("fine")])
    assert [outcome.score for outcome in outcomes] == [1.0, None, None, None, 1.0]
    assert outcomes[1].reason == 'judge answered 400: "too long"'
    assert outcomes[2].reason == "judge can't judge: the question has neither a reference answer nor a rubric"
    assert outcomes[3].reason.startswith("judge got a sample that can't be read")


def test_votes_are_joined_and_their_spread_is_reported(server: EndpointServer) -> None:
    votes = ["LEVEL: 1", "LEVEL: 4", "LEVEL: 5"]
    server.script = lambda request: completion(f"vote\n{votes[request.number % 3]}")
    (median,) = judge(server, [line()], votes=3, temperature=1.0)
    (mean,) = judge(server, [line()], votes=3, temperature=1.0, vote="mean")
    assert median.score == 0.75 and mean.score == pytest.approx((0 + 0.75 + 1) / 3)
    assert median.parts == {"votes": 3.0, "spread": 1.0}
    assert median.notes.count("vote") == 3


def test_a_verdict_needs_more_than_half_of_its_votes(server: EndpointServer) -> None:
    server.script = lambda request: completion("LEVEL: 4" if request.number else "?")
    (outcome,) = judge(server, [line()], votes=3, temperature=1.0, retries=0)
    assert outcome.score == 0.75 and outcome.parts["votes"] == 2
    server.requests.clear()
    (outcome,) = judge(server, [line()], votes=2, temperature=1.0, retries=0)
    assert outcome.score is None and outcome.reason.startswith(
        "judge got 1 of 2 votes: gave an answer that can't be read"
    )


def test_the_queue_holds_its_length_and_every_sample_is_judged(server: EndpointServer) -> None:
    server.script = lambda _: Answer(completion("LEVEL: 5").body, delay_s=0.02)
    outcomes = judge(server, [line() for _ in range(24)], concurrency=3)
    assert [outcome.score for outcome in outcomes] == [1.0] * 24
    assert server.most_at_once == 3


def test_calls_from_several_threads_share_the_queue(server: EndpointServer) -> None:
    server.script = lambda _: Answer(completion("LEVEL: 5").body, delay_s=0.02)
    scores: list[float | None] = []
    with EndpointRunner([term(server, concurrency=2)]) as runner:

        def work() -> None:
            scores.extend(outcome.score for outcome in runner.score([line()] * 6, [Unit(i, 0) for i in range(6)]))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert scores == [1.0] * 24 and server.most_at_once == 2


def test_a_judge_that_says_nothing_is_given_up(server: EndpointServer) -> None:
    server.script = lambda _: Answer(completion("LEVEL: 5").body, delay_s=3)
    (outcome,) = judge(server, [line()], limit_s=0.3)
    assert outcome.reason == "judge gave no verdict within 0.3 s"


def test_a_judge_that_is_down_fails_fast_and_says_so(server: EndpointServer) -> None:
    server.stop()
    outcomes = judge(server, [line() for _ in range(40)], attempts=1, concurrency=2, breaker_failures=2)
    assert all(outcome.score is None for outcome in outcomes)
    assert (
        sum(
            "can't be reached: ConnectError" in outcome.reason and "not asked" not in outcome.reason
            for outcome in outcomes
        )
        <= 4
    )
    assert "judge is not asked, because 2 calls in a row failed (the last one can't be reached" in outcomes[-1].reason


def test_costs_add_up_in_memory_and_in_the_file(server: EndpointServer, tmp_path: Path) -> None:
    path = tmp_path / "run" / "costs.jsonl"
    server.script = lambda request: completion(
        "?" if request.number == 3 else "LEVEL: 5", tokens_in=100 + request.number
    )
    with EndpointRunner([term(server, **PRICES)], costs=path) as runner:
        runner.score([line()] * 9, [Unit(i, 0) for i in range(9)])
        total = runner.costs()["judge"]
    assert total.requests == len(server.requests) == 10  # the answer that could not be read was paid for, too
    assert total.tokens_in == sum(100 + i for i in range(10)) and total.tokens_out == 200
    assert total.money == pytest.approx((total.tokens_in * 2 + total.tokens_out * 10) / 1e6)
    entries = [json.loads(entry) for entry in path.read_text().splitlines()]
    assert len(entries) == 10 and sum(entry["tokens_in"] for entry in entries) == total.tokens_in
    assert {entry["model"] for entry in entries} == {"tiny"}
    summed = read_costs(path)["judge"]
    assert (summed.requests, summed.tokens_in, summed.tokens_out) == (10, total.tokens_in, 200)


def test_tokens_that_the_server_does_not_count_are_estimated(server: EndpointServer, tmp_path: Path) -> None:
    server.script = lambda _: Answer({"choices": [{"message": {"content": "x" * 290 + "\nLEVEL: 5"}}]})
    with EndpointRunner([term(server)], costs=tmp_path / "costs.jsonl") as runner:
        assert runner.score([line()], [Unit(0, 0)])[0].score == 1.0
        assert runner.costs()["judge"].tokens_out == 101
    assert json.loads((tmp_path / "costs.jsonl").read_text())["estimated"] is True


def test_when_the_budget_is_spent_every_further_verdict_is_invalid_and_nothing_is_asked(
    server: EndpointServer, tmp_path: Path
) -> None:
    budgeted = term(server, **PRICES, budget=0.0011, concurrency=1)  # three requests of 0.0004
    units = [Unit(i, 0) for i in range(8)]
    with EndpointRunner([budgeted], costs=tmp_path / "costs.jsonl") as runner:
        outcomes = runner.score([line()] * 8, units)
    assert [outcome.score for outcome in outcomes] == [0.75] * 3 + [None] * 5
    assert outcomes[-1].reason == "judge is not asked, budget spent: 0.0012 of 0.0011"
    assert len(server.requests) == 3
    with EndpointRunner([budgeted], costs=tmp_path / "costs.jsonl") as runner:  # the run goes on in another process
        spent = runner.costs()["judge"]
        assert (spent.requests, spent.tokens_in, spent.tokens_out) == (3, 300, 60)
        assert [outcome.score for outcome in runner.score([line()] * 8, units)] == [None] * 8
    assert len(server.requests) == 3


def test_a_torn_line_of_the_cost_file_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "costs.jsonl"
    entry = json.dumps({"term": "judge", "tokens_in": 5, "tokens_out": 2, "money": 0.5})
    path.write_text(f"{entry}\n{entry}\n{entry[:20]}")
    assert read_costs(path) == {"judge": Cost(2, 10, 4, 1.0)}
    assert "line 3" in caplog.text


def test_a_cost_file_that_can_not_be_written_is_refused_at_the_start(server: EndpointServer, tmp_path: Path) -> None:
    (tmp_path / "costs.jsonl").mkdir()
    with pytest.raises(RewardError, match=r"cost ledger .*costs\.jsonl can't be used"):
        EndpointRunner([term(server)], costs=tmp_path / "costs.jsonl").start()


def test_the_secret_goes_to_the_server_and_nowhere_else(
    server: EndpointServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    key = "sk-very-secret-0123456789"
    monkeypatch.setenv("JUDGE_KEY", key)
    server.script = lambda _: completion(f"The key is {key}.\nLEVEL: 5")
    caplog.set_level("DEBUG")
    (outcome,) = judge(server, [line()], secret="JUDGE_KEY")
    assert server.requests[0].headers["Authorization"] == f"Bearer {key}"
    assert outcome.score == 1.0 and outcome.notes == "5: The key is [secret JUDGE_KEY]."
    server.script = lambda _: completion(f"No level, but {key}")
    (outcome,) = judge(server, [line()], secret="JUDGE_KEY")
    assert key not in outcome.notes + outcome.reason and "[secret JUDGE_KEY]" in outcome.notes
    server.script = lambda request: Answer({"bad key": request.headers["Authorization"]}, status=401)
    (outcome,) = judge(server, [line()], secret="JUDGE_KEY")
    assert key not in outcome.reason and "[secret JUDGE_KEY]" in outcome.reason
    assert key not in caplog.text


def test_a_missing_secret_is_found_before_anything_is_asked(
    server: EndpointServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    monkeypatch.setenv("MGRD_SECRETS", str(tmp_path / "none.toml"))
    with pytest.raises(RewardError, match=r"'JUDGE_KEY' is missing.*JUDGE_KEY.*none\.toml"):
        EndpointRunner([term(server, secret="JUDGE_KEY")]).start()


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"url": "ftp://example.com"}, "http:// or https://"),
        ({"model": ""}, "model is empty"),
        ({"levels": ["one"]}, "two labels"),
        ({"answer": "xml"}, "answer is one of line, json, schema"),
        ({"prompt": "defualt"}, "default, rubric"),
        ({"prompt": "{{ reply"}, "no jinja template"),
        ({"votes": 0}, "votes is 0; it must be 1 or more"),
        ({"votes": 3}, "votes at temperature 0 are one vote"),
        ({"vote": "best"}, "vote is one of"),
        ({"retries": -1}, "retries is -1"),
        ({"timeout_s": 0}, "timeout_s is 0"),
        ({"concurrency": "8"}, "concurrency is '8', not a number"),
        ({"requests_per_minute": 0.5}, "1 or more, or 0"),
        ({"requests_per_minute": 2}, "lower concurrency or raise limit_s"),
        ({"extra": {"messages": []}}, "none of messages"),
        ({"budget": 5}, "a budget needs prices"),
        ({"temprature": 0.5}, "temprature"),
    ],
)
def test_parameters_that_can_not_work_are_refused(
    server: EndpointServer, parameters: dict[str, Any], reason: str
) -> None:
    with pytest.raises(RewardError, match=reason):
        term(server, **parameters)


def test_url_and_model_are_required() -> None:
    with pytest.raises(RewardError, match="url"):
        resolve(RewardTerm("judge", 1.0, "any"))


def test_the_version_covers_model_prompt_and_levels(server: EndpointServer) -> None:
    variants: list[dict[str, Any]] = [
        {},
        {"model": "other"},
        {"prompt": "rubric"},
        {"prompt": "{{ reply }}"},
        {"levels": ["a", "b"]},
        {"temperature": 0.5},
    ]
    terms = [term(server, **parameters) for parameters in variants]
    assert len({one.version for one in terms}) == len(terms)
    assert terms[0].version == term(server).version
    assert terms[0].endpoint and not terms[0].deterministic


def test_importing_the_judge_loads_no_http_client() -> None:
    import subprocess
    import sys

    heavy = {"httpx", "purgatory", "stamina", "jinja2"}
    code = f"import sys, rewards.endpoints.judge, rewards.endpoints.remote; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
