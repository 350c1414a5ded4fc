"""The reward service on a real Ray: order, isolation, dead actors, clean end."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import hostile_rewards  # noqa: F401  registers the function used here
import psutil
import pytest
import ray

import rewards.lanes as lanes
import rewards.service as service_module
from rewards import RewardError, RewardService, RewardSpec, RewardTerm, Sample, Scorer, Verdict

SPEC = RewardSpec(
    (RewardTerm("answer", 0.8, "audio"), RewardTerm("think_present", 0.2, "audio"), RewardTerm("answer", 1.0, "text")),
    timeout_s=2.0,
    memory_mb=256,
    workers=2,
)
HOSTILE = RewardSpec((RewardTerm("hostile", 1.0, "any"),), timeout_s=1.0, memory_mb=256, workers=2)


def sample(number: int, deed: str = "good") -> Sample:
    """Audio and text in turn; every third reply is wrong, every fifth reasoning empty."""
    question = {
        "prompt": deed,
        "answer": "violin",
        "answer_kind": "choice",
        "choices": ["dog", "violin"],
        "tolerance": 0.0,
        "audio": [] if number % 2 else [{"path": "/clip.wav", "sha256": "0" * 64, "seconds": 1.0}],
    }
    reply = "dog" if number % 3 == 0 else "B. violin"
    reasoning = "" if number % 5 == 0 else "I hear a violin."
    return Sample(f"t/{number}", question, reply, reasoning, reply, True, True, 9, 5)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    started = not ray.is_initialized()
    if started:
        ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield
    if started:
        ray.shutdown()


@pytest.fixture(scope="module")
def hostile(cluster: None) -> Iterator[RewardService]:
    service = RewardService(HOSTILE)
    service.start()
    yield service
    service.shutdown()


def own_processes(word: str) -> list[psutil.Process]:
    """Live descendants of this test run whose command line has the word."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if word in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
def test_a_batch_gets_the_same_verdicts_as_without_ray_in_order_and_nothing_stays_behind(cluster: None) -> None:
    service = RewardService(SPEC)
    service.start()
    assert service.versions.keys() == {"answer", "think_present"}
    batch = [sample(i) for i in range(300)]
    verdicts = service.score(batch)
    with Scorer(SPEC) as scorer:
        assert verdicts == scorer.score(batch)
    assert [v.score for v in verdicts[:4]] == [0.0, 1.0, 1.0, 0.0]
    assert service.score([]) == []
    mine = own_processes("RewardWorker") + own_processes("rewards.sandbox_child")
    assert len(mine) == 4
    service.shutdown()
    _, alive = psutil.wait_procs(mine, timeout=20)
    assert not alive
    with pytest.raises(RewardError, match="not running"):
        service.score(batch)
    service.shutdown()


@pytest.mark.slow
def test_failures_cost_only_their_own_samples(hostile: RewardService) -> None:
    bad = {10: "loop", 40: "raise", 70: "_exit", 130: "nan", 131: "power"}
    verdicts = hostile.score([sample(i, bad.get(i, "good")) for i in range(150)])
    assert {i: v.reason for i, v in enumerate(verdicts) if not v.valid} == {
        10: "hostile timed out after 1.0 s and was killed",
        40: "hostile raised ValueError: no such option",
        70: "hostile ended its process (exit status 5)",
        130: "hostile returned nan, not a finite number",
        131: "hostile timed out after 1.0 s and was killed",
    }
    good = Verdict(valid=True, score=1.0, components={"hostile": 1.0})
    assert all(v == good for i, v in enumerate(verdicts) if i not in bad)


@pytest.mark.slow
@pytest.mark.chaos
def test_an_actor_that_is_killed_is_replaced_and_its_part_scored_again(hostile: RewardService) -> None:
    batch = [sample(i, "loop" if i == 0 else "good") for i in range(100)]
    with ThreadPoolExecutor(1) as thread:
        scored = thread.submit(hostile.score, batch)
        time.sleep(0.3)  # one actor is busy with the loop for a second
        for process in own_processes("RewardWorker"):
            os.kill(process.pid, signal.SIGKILL)
        verdicts = scored.result(60)
    assert [v.valid for v in verdicts] == [False] + [True] * 99
    assert "timed out" in verdicts[0].reason


@pytest.mark.slow
@pytest.mark.chaos
def test_an_actor_that_is_stopped_is_replaced_long_before_its_calls_are_due(
    hostile: RewardService, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hostile.score([sample(1)])
    for module, name in ((lanes, "WATCH_S"), (service_module, "WATCH_S"), (lanes, "START_LIMIT_S")):
        monkeypatch.setattr(module, name, 0.2)
    monkeypatch.setattr(lanes, "CALL_ALLOWANCE_S", 5.0)
    for process in own_processes("RewardWorker"):
        process.suspend()
    verdicts = hostile.score([sample(i, "sleep" if i % 40 == 0 else "good") for i in range(200)])
    assert all(verdict.valid or "timed out" in verdict.reason for verdict in verdicts)
    assert {f"reward worker {i} is replaced: nothing has moved in it" in caplog.text for i in range(2)} == {True}
    assert "did not answer within" not in caplog.text


@pytest.mark.slow
def test_a_long_batch_that_moves_is_not_taken_for_a_stalled_one(cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((lanes, "WATCH_S"), (service_module, "WATCH_S"), (lanes, "START_LIMIT_S")):
        monkeypatch.setattr(module, name, 0.2)
    monkeypatch.setattr(lanes, "CALL_ALLOWANCE_S", 5.0)
    service = RewardService(RewardSpec((RewardTerm("hostile", 1.0, "any"),), 0.3, 256, 1))
    service.start()
    try:
        verdicts = service.score(
            [sample(i, "loop") for i in range(24)]
        )  # 7.2 s in all, 6.5 s without a sign are too long
    finally:
        service.shutdown()
    assert {verdict.reason for verdict in verdicts} == {"hostile timed out after 0.3 s and was killed"}


@pytest.mark.slow
@pytest.mark.chaos
def test_a_part_that_keeps_losing_its_actor_is_invalid_with_the_reason(hostile: RewardService) -> None:
    stop = threading.Event()

    def keep_killing() -> None:
        while not stop.wait(0.05):
            for process in own_processes("RewardWorker"):
                process.kill()

    killer = threading.Thread(target=keep_killing)
    killer.start()
    try:
        verdicts = hostile.score([sample(i, "sleep") for i in range(3)])
    finally:
        stop.set()
        killer.join()
    assert len(verdicts) == 3
    assert all("lost 3 times on this part of the batch: its actor died" in v.reason for v in verdicts)
    assert hostile.score([sample(1)])[0].valid


def test_what_can_not_work_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RewardError, match="did you mean 'answer'"):
        RewardService(RewardSpec((RewardTerm("anwser", 1.0, "any"),), 1.0, 256, 1))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(RewardError, match=r"ray\.init"):
        RewardService(SPEC).start()


@pytest.mark.slow
def test_a_function_that_can_not_be_loaded_fails_the_start_with_its_cause(cluster: None) -> None:
    import hungry_reward  # noqa: F401

    service = RewardService(RewardSpec((RewardTerm("hungry", 1.0, "any"),), 1.0, 128, 1))
    with pytest.raises(RewardError, match=r"reward worker 0 did not start.*hungry.*128 MB"):
        service.start()
