"""`mgrd rewards` as users type it: write, test, diff, register, list, show, retire."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis_room import RedisRoom
from typer.testing import CliRunner, Result

from orchestrator.cli import app
from rewards import Sample, StoredTrajectory, Verdict, write_stored

REWARD = '''
"""Rewards of my own."""

from rewards import Sample, reward


@reward("hears", version_note="counts words of hearing")
def hears(sample: Sample, *, needed: int = 1) -> float:
    """1.0 when the reasoning says that something is heard."""
    words = sample.reasoning.lower().split()
    return float(sum(word in ("hear", "sounds") for word in words) >= needed)
'''
QUESTION = {"prompt": "What is heard?", "answer": "dog", "answer_kind": "choice", "choices": ["dog", "owl"]}
HEARD, SEEN = "<think>\nI hear a bark.\n</think>\nA", "<think>\nIt must be the dog.\n</think>\nA"
CASES = [
    {"case": "hears", "question": QUESTION, "response": HEARD, "expected": 1.0},
    {"case": "does not", "question": QUESTION, "response": SEEN, "expected": 0.0},
    {"case": "two", "question": QUESTION, "response": HEARD, "expected": 0.0, "parameters": {"needed": 2}},
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisRoom]:
    room = RedisRoom(tmp_path_factory.mktemp("registry"))
    yield room
    room.kill()


@pytest.fixture
def desk(tmp_path: Path, server: RedisRoom, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with a reward, its golden cases, a file of responses and a finished run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MGRD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MGRD_REDIS_URL", server.url)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "my_rewards.py").write_text(REWARD)
    (tmp_path / "cases.jsonl").write_text("".join(json.dumps(case) + "\n" for case in CASES))
    written = [{"question": QUESTION, "response": text} for text in (HEARD, SEEN, "A", HEARD.replace("A", "B"))]
    (tmp_path / "responses.jsonl").write_text("".join(json.dumps(line) + "\n" for line in written))
    for update in range(2):
        rows = [stored(update, number) for number in range(6)]
        write_stored(tmp_path / "run" / "trajectories" / f"update_{update:06d}.jsonl.gz", rows)
    return tmp_path


def stored(update: int, number: int) -> StoredTrajectory:
    """Right and wrong in turn; every third one says what it hears."""
    question = QUESTION | {"tolerance": 0.0, "audio": []}
    reasoning = "I hear it." if number % 3 == 0 else "So it is."
    reply = "A" if number % 2 == 0 else "owl"
    sample = Sample(f"t/{update}/{number}", question, reply, reasoning, reply, True, True, 5, 3)
    return StoredTrajectory(sample, Verdict(True, 1.0))


def mgrd(*arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(app, ["rewards", *arguments])
    assert result.exit_code == status, result.output
    return result


def answered(*arguments: str, status: int = 0) -> Any:
    return json.loads(mgrd(*arguments, "--json", status=status).stdout)


def test_golden_cases_are_run_and_shown_with_expected_got_and_time(desk: Path) -> None:
    output = mgrd("test", "my_rewards.py:hears", "--golden", "cases.jsonl").output
    assert "3 of 3 golden cases" in output
    assert re.search(r"does not\s*│ 0\s*│ 0\s*│ \d+\.\d ms │ ok", output)


def test_a_miss_exits_1_and_says_what_came_out(desk: Path) -> None:
    (desk / "my_rewards.py").write_text(REWARD.replace(">= needed", "> needed"))
    output = mgrd("test", "my_rewards.py:hears", "--golden", "cases.jsonl", status=1).output
    assert "2 of 3 golden cases" in output and re.search(r"hears\s*│ 1\s*│ 0\s*│ .* │ MISS", output)
    found = answered("test", "my_rewards.py:hears", "--golden", "cases.jsonl", status=1)
    assert found["missed"] == 1 and [case["passed"] for case in found["cases"]] == [False, True, True]


def test_a_reward_that_hangs_or_raises_misses_its_case_and_nothing_else(desk: Path) -> None:
    (desk / "my_rewards.py").write_text(
        REWARD.replace("    words =", "    while 'must' in sample.reasoning:\n        pass\n    words =")
    )
    found = answered("test", "my_rewards.py:hears", "--golden", "cases.jsonl", "--timeout", "1", status=1)
    assert [case["passed"] for case in found["cases"]] == [True, False, True]
    assert "timed out after 1.0 s" in found["cases"][1]["reason"]


def test_shipped_rewards_bring_their_golden_cases(desk: Path) -> None:
    found = answered("test", "answer")
    assert found["missed"] == 0 and len(found["cases"]) >= 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["test", "answr"], "did you mean 'answer'"),
        (["test", "nowhere.py:f", "--golden", "cases.jsonl"], "there is no file"),
        (["test", "my_rewards.py:heers", "--golden", "cases.jsonl"], "it registers: hears"),
        (["test", "my_rewards.py:hears"], "brings no golden cases"),
        (["test", "my_rewards.py:hears", "--golden", "nowhere.jsonl"], "can't be read"),
        (["test", "my_rewards.py:hears", "--golden", "cases.jsonl", "-p", "wanted=2"], "its parameters: needed"),
        (["test", "my_rewards.py:hears", "--golden", "cases.jsonl", "-p", "needed"], "write name=value"),
        (["test", "hears@stable"], "there is no tag hears@stable"),
        (["score", "nowhere.jsonl", "-r", "answer"], "can't be read"),
        (["score", "responses.jsonl", "-r", "answer=much"], "the weight 'much' is no number"),
        (["score", "responses.jsonl", "-r", "answer", "-r", "answer"], "named twice"),
        (["diff", "answer", "my_rewards.py:hears", "--run", "nowhere"], "keeps no trajectories"),
        (["register", "my_rewards.py:hears"], "without golden cases"),
        (["register", "answer", "--golden", "cases.jsonl"], "is no FILE.py:FUNCTION"),
        (["register", "--url", "http://localhost:1"], "--url URL --name NAME"),
        (["show", "sha256:000000000000"], "no reward is published"),
        (["retire", "hears@nothing"], "there is no tag"),
        (["serve", "--host", "0.0.0.0"], "--token-secret"),
    ],
)
def test_what_can_not_work_is_refused_with_the_reason(desk: Path, arguments: list[str], message: str) -> None:
    result = mgrd(*arguments, status=2)
    assert "refused:" in result.output and message in " ".join(result.output.split())


def test_written_responses_are_scored_with_weights(desk: Path) -> None:
    found = answered("score", "responses.jsonl", "-r", "answer=0.8", "-r", "my_rewards.py:hears=0.2")
    assert [verdict["score"] for verdict in found["verdicts"]] == pytest.approx([1.0, 0.8, 0.8, 0.2])
    assert found["components"]["hears"]["mean"] == 0.5 and set(found["versions"]) == {"answer", "hears"}
    output = mgrd("score", "responses.jsonl", "-r", "answer", "--out", "verdicts.jsonl").output
    assert "4 scored, 0 invalid" in output
    assert [json.loads(line)["score"] for line in (desk / "verdicts.jsonl").read_text().splitlines()] == [1, 1, 1, 0]


def test_what_can_not_be_scored_is_counted_with_its_reason_and_is_no_zero(desk: Path) -> None:
    with (desk / "responses.jsonl").open("a") as file:
        file.write(json.dumps({"question": QUESTION | {"answer": "cat"}, "response": "A"}) + "\n")
    found = answered("score", "responses.jsonl", "-r", "answer")
    assert found["invalid"] == 1 and found["components"]["score"]["mean"] == 0.75
    assert [count for reason, count in found["reasons"].items() if "'cat'" in reason] == [1]


def test_a_run_is_scored_again_and_the_flipped_cases_shown(desk: Path) -> None:
    found = answered("diff", "answer", "my_rewards.py:hears", "--run", "run")
    assert (found["count"], found["flipped"]) == (12, 6)
    assert found["agreement"] == 0.5 and [found["mean_a"], found["mean_b"]] == pytest.approx([0.5, 1 / 3])
    assert found["shift"] == pytest.approx(-1 / 6)
    assert {flip["reply"] for flip in found["flips"]} == {"A", "owl"}
    output = mgrd("diff", "answer", "my_rewards.py:hears", "--run", "run", "--limit", "6", "--keep", "1").output
    assert "6 trajectories" in output and "agreement 50.00%; 3 differ" in output and "What is heard?" in output


def test_a_reward_is_registered_shown_used_and_retired(desk: Path) -> None:
    registered = answered(
        "register", "my_rewards.py:hears", "--golden", "cases.jsonl", "--tag", "stable", "--note", "one"
    )
    version = registered["version"]
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", version) and all(case["passed"] for case in registered["cases"])
    again = mgrd("register", "my_rewards.py:hears", "--golden", "cases.jsonl", "-p", "needed=2", status=1)
    assert "not registered" in again.output  # the first case now misses
    assert [line["hash"] for line in answered("list")["published"]] == [version]
    assert version[:19] in mgrd("list").output and "counts words of hearing" not in mgrd("show", "hears@stable").output
    assert "def hears" in mgrd("show", version[:19], "--source").output
    assert answered("show", "hears@stable")["bundle"]["parameters"] == {"needed": 1}
    (desk / "my_rewards.py").write_text(REWARD.replace('"hear"', '"listen"'))
    found = answered("diff", "hears@stable", "my_rewards.py:hears", "--run", "run")
    assert found["flipped"] == 4 and found["versions"]["a"] == version
    assert answered("test", "hears@stable")["missed"] == 0
    mgrd("retire", "hears@stable", "--note", "too easy")
    assert answered("list")["published"] == [] and "too easy" in mgrd("list", "--all").output
    refused = mgrd("register", "my_rewards.py:hears", "--golden", "cases.jsonl", status=1)
    assert "not registered" in refused.output
    mgrd("retire", "--undo", version)
    assert len(answered("list")["published"]) == 1


def test_a_remote_reward_is_registered_by_its_address(desk: Path) -> None:
    version = answered("register", "--url", "https://rewards.example/score", "--name", "style")["version"]
    shown = answered("show", version)
    assert shown["kind"] == "remote" and shown["bundle"]["parameters"]["url"] == "https://rewards.example/score"


def test_the_list_names_what_is_installed(desk: Path) -> None:
    found = answered("list")
    assert {"answer", "think_present", "think_length", "format", "judge", "remote"} <= {
        function["name"] for function in found["installed"]
    }


@pytest.mark.slow
def test_without_a_server_this_machine_keeps_a_registry_of_its_own(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MGRD_REDIS_URL")
    version = answered("register", "my_rewards.py:hears", "--golden", "cases.jsonl", "--tag", "stable")["version"]
    assert [line["hash"] for line in answered("list")["published"]] == [version]
    assert answered("test", "hears@stable")["missed"] == 0


@pytest.mark.parametrize("command", ["test", "score", "diff", "register", "list", "show", "retire", "serve"])
def test_every_command_explains_itself(command: str) -> None:
    assert len(mgrd(command, "--help").output) > 200


def test_the_example_of_the_page_works(desk: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "REWARDS.md").read_text()
    for fence, file in (("python", "page_rewards.py"), ("json", "page_cases.jsonl")):
        block = re.search(rf"```{fence}\n(.*?)```", page, re.DOTALL)
        assert block is not None
        (desk / file).write_text(block.group(1))
    found = answered("register", "page_rewards.py:pitch_named", "--golden", "page_cases.jsonl")
    assert [case["passed"] for case in found["cases"]] == [True] * 3


def test_published_cases_with_recordings_want_the_same_recordings(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (desk / "bark.wav").write_bytes(b"a recording")
    case = CASES[0] | {"question": QUESTION | {"audio": [{"path": "bark.wav"}]}}
    (desk / "heard.jsonl").write_text(json.dumps(case) + "\n")
    version = answered("register", "my_rewards.py:hears", "--golden", "heard.jsonl")["version"]
    assert answered("test", version)["missed"] == 0
    (desk / "bark.wav").write_bytes(b"another recording")
    assert "is another one here" in " ".join(mgrd("test", version, status=2).output.split())
    (desk / "bark.wav").unlink()
    assert "is not here" in " ".join(mgrd("test", version, status=2).output.split())
