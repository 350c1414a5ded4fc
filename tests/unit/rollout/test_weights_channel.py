"""Weights that pass once: digests taken where tensors lie, and what the ends of a channel tell each other."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from actor.publishing import LivePublisher
from rollout import Channel, ChannelError, Way, word_digest
from rollout.transfer.digest import matches

CPU = torch.device("cpu")


@given(st.binary(min_size=1, max_size=100), st.data())
def test_a_word_digest_tells_any_flipped_bit_and_any_moved_word(content: bytes, data: st.DataObject) -> None:
    flat_N = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    digest = word_digest(flat_N)
    assert matches(digest, flat_N.clone())
    other = flat_N.clone()
    other[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert not matches(digest, other)
    turned = torch.cat([flat_N[8:16], flat_N[:8], flat_N[16:]])
    if len(content) >= 16 and not torch.equal(turned, flat_N):
        assert not matches(digest, turned)
    assert not matches(digest, torch.cat([flat_N, torch.zeros(1, dtype=torch.uint8)]))


@pytest.mark.parametrize("way", list(Way))
def test_every_receiver_gets_every_version_and_a_failure_reaches_all(way: Way) -> None:
    versions = [{f"w{j}": torch.randn(300, 401) + seed for j in range(5)} for seed in range(2)]
    sender, address = Channel.serve("127.0.0.1", 3, CPU, 20.0)
    publisher = LivePublisher(sender, way, None, bucket_mib=1)
    got: dict[int, list[dict[str, torch.Tensor]]] = {1: [], 2: []}
    told: list[str] = []

    def receive(rank: int) -> None:
        channel = Channel.join(address, rank, 3, CPU, 20.0)
        for number in range(2):
            came: dict[str, torch.Tensor] = {}
            for one in channel.incoming(number, way):
                if not isinstance(one, str):
                    bucket, bytes_N = one
                    for entry in bucket.tensors:
                        part = bytes_N[entry.offset : entry.offset + entry.size]
                        assert matches(entry.digest, part)
                        came[entry.name] = part.view(torch.float32).reshape(entry.shape)
            got[rank].append(came)
        with pytest.raises(ChannelError) as error:
            list(channel.incoming(2, way))
        told.append(str(error.value))

    def breaks() -> Iterator[tuple[str, torch.Tensor]]:
        yield from versions[0].items()
        raise RuntimeError("a rank is gone")

    threads = [threading.Thread(target=receive, args=(rank,)) for rank in got]
    for thread in threads:
        thread.start()
    for number, weights in enumerate(versions):
        assert publisher.publish(number, weights.items()).total_bytes == 5 * 300 * 401 * 4
    with pytest.raises(RuntimeError, match="a rank is gone"):
        publisher.publish(2, breaks())
    for thread in threads:
        thread.join(20)
    for came in got.values():
        assert all(torch.equal(one[name], two[name]) for one, two in zip(came, versions, strict=True) for name in two)
    assert told == ["the publisher gave up on publish 2: RuntimeError: a rank is gone"] * 2


def test_waiting_for_the_other_end_has_a_limit() -> None:
    _, address = Channel.serve("127.0.0.1", 2, CPU, 0.2)
    channel = Channel.join(address, 1, 2, CPU, 0.2)
    with pytest.raises(ChannelError, match=r"nothing was heard of 7/0 within 0\.2 s"):
        next(iter(channel.incoming(7, Way.BROADCAST)))
