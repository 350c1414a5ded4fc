"""Weights from GPU to GPU: NCCL between devices, CUDA IPC on one. Needs CUDA; what can run without runs in `test_weights_channel`."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection

import pytest
import torch

from actor.publishing import LivePublisher
from rollout import Channel, Way
from rollout.transfer.digest import matches

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
needs_two = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="no two CUDA devices")
LIMIT_S = 120.0


def receive(pipe: Connection, address: str, way: Way, device: int) -> None:
    torch.cuda.set_device(device)
    channel = Channel.join(address, 1, 2, torch.device("cuda", device), LIMIT_S)
    for number in range(2):
        sums = {}
        for one in channel.incoming(number, way):
            if not isinstance(one, str):
                bucket, bytes_N = one
                for entry in bucket.tensors:
                    part = bytes_N[entry.offset : entry.offset + entry.size]
                    assert matches(entry.digest, part)
                    sums[entry.name] = part.view(torch.float32).double().sum().item()
        pipe.send(sums)


@pytest.mark.parametrize(
    ("way", "device"),
    [pytest.param(Way.LEND, 0, marks=needs_gpu), pytest.param(Way.BROADCAST, 1, marks=needs_two)],
)
def test_two_versions_arrive_on_the_other_side(way: Way, device: int) -> None:
    torch.cuda.set_device(0)
    here, there = multiprocessing.get_context("spawn").Pipe()
    sender, address = Channel.serve("127.0.0.1", 2, torch.device("cuda", 0), LIMIT_S)
    process = multiprocessing.get_context("spawn").Process(target=receive, args=(there, address, way, device))
    process.start()
    publisher = LivePublisher(sender, way, None, bucket_mib=8)
    for number in range(2):
        weights = {f"w{j}": torch.randn(1000, 1001, device="cuda:0") for j in range(9)}
        publisher.publish(number, weights.items())
        assert here.poll(LIMIT_S)
        assert here.recv() == {name: tensor.double().sum().item() for name, tensor in weights.items()}
    process.join(30)
    assert process.exitcode == 0
