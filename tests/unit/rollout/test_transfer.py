"""Weights through shared memory, from a publisher's process to a receiver: equal, verified, and gone when nobody needs them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from actor.publishing import SegmentPublisher
from rollout import Reception, SegmentError, SegmentView, memory_identity, receive_segment, sweep
from rollout.errors import WeightsRefused
from rollout.transfer import with_companions
from rollout.transfer.companions import layer_of

Weights = dict[str, torch.Tensor]
LAYER = "model.layers.0.self_attn."
PUBLISHER = """
import sys, time, torch
from pathlib import Path
from actor.publishing import SegmentPublisher
def tensors():
    yield "a", torch.ones(2000)
    if sys.argv[2] == "half":
        print("ready", flush=True); time.sleep(60)
publisher = SegmentPublisher("killed", bucket_mib=1, folder=Path(sys.argv[1]))
publisher.publish(1, tensors())
print("ready", flush=True); time.sleep(60)
"""


def some_weights(seed: int) -> Weights:
    torch.manual_seed(seed)
    names = [f"{LAYER}{p}_proj.{kind}" for p in "kqv" for kind in ("bias", "weight")]
    weights = {name: torch.randn(300, 500 if name.endswith("weight") else 1).squeeze(-1) for name in names}
    return weights | {
        f"{LAYER}o_proj.weight": torch.randn(300, 300).bfloat16(),
        "model.embed_tokens.weight": torch.randn(700, 300),
        "model.scale": torch.tensor(1.5),
        "model.nothing": torch.zeros(0, 4),
    }


class Receiver:
    """What an engine does with an update, on tensors of its own."""

    def __init__(self, like: Weights) -> None:
        self.weights = {name: torch.zeros_like(tensor) for name, tensor in like.items()}
        self.held: dict[str, str] = {}
        self.loaded: list[str] = []
        self._view = SegmentView()

    def receive(self, journal: Path, version: int, limit_s: float = 10.0) -> Reception:
        self.loaded = []
        reception = Reception({n: tuple(t.shape) for n, t in self.weights.items()}, self._load, held=self.held)
        receive_segment(reception, self._view, journal, version, limit_s)
        self.held = reception.digests
        return reception

    def _load(self, ready: list[tuple[str, torch.Tensor]]) -> None:
        for name, tensor in ready:
            self.weights[name].copy_(tensor)
            self.loaded.append(name)


@pytest.fixture
def publisher(tmp_path: Path) -> Iterator[Callable[..., SegmentPublisher]]:
    made: list[SegmentPublisher] = []

    def make(**options: object) -> SegmentPublisher:
        made.append(SegmentPublisher(f"run{len(made)}", **{"bucket_mib": 1, "folder": tmp_path} | options))
        return made[-1]

    yield make
    for one in made:
        one.close()
    assert list(tmp_path.iterdir()) == []


def same(one: Weights, two: Weights) -> bool:
    return all(torch.equal(one[name], two[name]) for name in two)


def test_versions_arrive_whole_and_the_confirmed_one_stays_readable(publisher: Callable[..., SegmentPublisher]) -> None:
    sender, versions = publisher(), [some_weights(seed) for seed in range(4)]
    receiver = Receiver(versions[0])
    for number, weights in enumerate(versions):
        published = sender.publish(number, weights.items())
        if number:  # a revived engine, while the next version is not confirmed yet
            late = Receiver(versions[0])
            late.receive(sender.journal(number - 1), number - 1)
            assert same(late.weights, versions[number - 1])
        reception = receiver.receive(sender.journal(number), number)
        assert same(receiver.weights, weights)
        assert reception.checksum == published.checksum
        sender.confirm(number)


def test_a_receiver_loads_while_the_publisher_writes(publisher: Callable[..., SegmentPublisher]) -> None:
    sender, weights, half = publisher(), some_weights(1), threading.Event()
    receiver = Receiver(weights)
    first_bucket = [f"{LAYER}k_proj.bias", f"{LAYER}k_proj.weight"]

    def slowly() -> Iterator[tuple[str, torch.Tensor]]:
        for number, item in enumerate(weights.items()):
            if number == 5:
                assert half.wait(10), "nothing was loaded before all was written"
            yield item

    def watch() -> None:
        while not set(first_bucket) <= set(receiver.loaded):
            pass
        half.set()

    threads = [threading.Thread(target=receiver.receive, args=(sender.journal(1), 1)), threading.Thread(target=watch)]
    for thread in threads:
        thread.start()
    sender.publish(1, slowly())
    for thread in threads:
        thread.join(10)
    assert same(receiver.weights, weights)


def test_the_checksum_does_not_depend_on_buckets_or_order(publisher: Callable[..., SegmentPublisher]) -> None:
    weights = some_weights(1)
    turned = dict(reversed(weights.items()))
    assert publisher().publish(1, weights.items()).checksum == (
        publisher(bucket_mib=4).publish(7, turned.items()).checksum
    )


def test_a_flipped_bit_is_refused_before_it_is_loaded(publisher: Callable[..., SegmentPublisher]) -> None:
    sender, weights = publisher(), some_weights(1)
    sender.publish(1, weights.items())
    (data,) = sender.journal(1).parent.glob("*.data")
    needle = weights["model.embed_tokens.weight"][350].numpy().tobytes()
    damaged = bytearray(data.read_bytes())
    damaged[damaged.index(needle)] ^= 1
    data.write_bytes(damaged)
    receiver = Receiver(weights)
    with pytest.raises(WeightsRefused, match=r"model\.embed_tokens\.weight was damaged on its way"):
        receiver.receive(sender.journal(1), 1)
    assert all(torch.equal(receiver.weights[name], weights[name]) for name in receiver.loaded)
    assert receiver.held == {}


def test_only_what_changed_is_written_and_loaded_with_its_layer(publisher: Callable[..., SegmentPublisher]) -> None:
    sender, weights = publisher(only_changed=True), some_weights(1)
    receiver = Receiver(weights)
    for version in (1, 2):
        sender.publish(version, weights.items())
        receiver.receive(sender.journal(version), version)
        sender.confirm(version)
    assert receiver.loaded == []
    changed = weights | {f"{LAYER}q_proj.weight": weights[f"{LAYER}q_proj.weight"] + 1}
    published = sender.publish(3, changed.items())
    receiver.receive(sender.journal(3), 3)
    assert same(receiver.weights, changed)
    assert published.written_bytes == 300 * 500 * 4 < published.total_bytes
    assert sorted(receiver.loaded) == sorted(f"{LAYER}{p}_proj.{kind}" for p in "qkv" for kind in ("weight", "bias"))


def test_weights_of_another_model_are_refused(publisher: Callable[..., SegmentPublisher]) -> None:
    sender, weights = publisher(), some_weights(1)
    sender.publish(1, [item for item in weights.items() if item[0] != "model.scale"])
    with pytest.raises(WeightsRefused, match=r"1 missing: model\.scale"):
        Receiver(weights).receive(sender.journal(1), 1)
    sender.publish(2, weights.items())
    with pytest.raises(WeightsRefused, match=r"of another shape: model\.embed_tokens\.weight"):
        Receiver(weights | {"model.embed_tokens.weight": torch.zeros(3)}).receive(sender.journal(2), 2)
    sender.publish(3, [*weights.items(), ("model.extra", torch.zeros(2))])
    with pytest.raises(WeightsRefused, match=r"1 unknown: model\.extra"):
        Receiver(weights).receive(sender.journal(3), 3)


def test_a_publisher_that_fails_says_why_to_its_receivers(publisher: Callable[..., SegmentPublisher]) -> None:
    sender, weights = publisher(), some_weights(1)

    def fails() -> Iterator[tuple[str, torch.Tensor]]:
        yield from list(weights.items())[:3]
        raise RuntimeError("a rank is gone")

    with pytest.raises(RuntimeError, match="a rank is gone"):
        sender.publish(1, fails())
    with pytest.raises(WeightsRefused, match="gave up on publish 1: RuntimeError: a rank is gone"):
        Receiver(weights).receive(sender.journal(1), 1)
    sender.publish(1, weights.items())
    Receiver(weights).receive(sender.journal(1), 1)


def test_waiting_for_weights_has_a_limit(publisher: Callable[..., SegmentPublisher]) -> None:
    with pytest.raises(WeightsRefused, match="not complete in time"):
        Receiver(some_weights(1)).receive(publisher().journal(5), 5, limit_s=0.05)


@pytest.mark.parametrize("progress", ["half", "whole"])
def test_a_killed_publisher_is_noticed_and_swept(tmp_path: Path, progress: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PUBLISHER, str(tmp_path), progress], stdout=subprocess.PIPE, text=True, cwd=os.getcwd()
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    assert sweep(tmp_path) == [], "a living publisher was swept"
    journal = tmp_path / "mgrd-weights-killed.1.journal"
    process.send_signal(signal.SIGKILL)
    process.wait()
    receiver = Receiver({"a": torch.ones(2000)})
    if progress == "half":
        with pytest.raises(WeightsRefused, match="died before its weights were complete"):
            receiver.receive(journal, 1)
    else:
        receiver.receive(journal, 1)
        assert torch.equal(receiver.weights["a"], torch.ones(2000))
    assert [path.name for path in sweep(tmp_path)] == ["mgrd-weights-killed.lock"]
    assert list(tmp_path.iterdir()) == []


def test_memory_is_given_back_when_it_is_not_to_be_reused(
    publisher: Callable[..., SegmentPublisher], tmp_path: Path
) -> None:
    sender, weights = publisher(keep_memory=False), some_weights(1)
    for version in (1, 2, 3):
        sender.publish(version, weights.items())
        sender.confirm(version)
        assert len(list(tmp_path.glob("*.data"))) == 1


def test_a_name_in_use_is_refused(publisher: Callable[..., SegmentPublisher], tmp_path: Path) -> None:
    publisher()
    with pytest.raises(SegmentError, match="held by another publisher"):
        SegmentPublisher("run0", folder=tmp_path)


def test_one_host_sees_one_memory() -> None:
    assert memory_identity() == memory_identity() != memory_identity(Path("/proc"))


NAMES = st.sampled_from([*some_weights(0), "model.layers.1.mlp.gate_proj.weight", "model.layers.1.mlp.up_proj.weight"])


@given(st.sets(NAMES), st.sets(NAMES))
def test_companions_are_whole_layers(changed: set[str], names: set[str]) -> None:
    chosen = with_companions(changed, names)
    assert changed & names <= chosen <= names
    assert with_companions(chosen, names) == chosen
    assert {layer_of(name) for name in chosen} <= {layer_of(name) for name in changed}
