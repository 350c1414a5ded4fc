"""Where a trainer rank sends weights: one publisher of the transport asked for, kept from publish to publish.

Neighbours: `actor.trainer` brings the stream of tensors, which all ranks go through together.
Invariants: a publisher is opened when it is first asked for and closed with the trainer; the stream is gone through to its end also
where it cannot be published, because the other ranks are in the same collectives.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from actor.publishing.buckets import Published
from actor.publishing.live import LivePublisher
from actor.publishing.messages import MessagePublisher, Store
from actor.publishing.shared_memory import SegmentPublisher
from actor.publishing.spec import Meeting, PublishSpec, Transport
from rollout import Channel, ChannelError, SegmentError, Way

Publisher = SegmentPublisher | MessagePublisher | LivePublisher


class PublishRefused(RuntimeError):
    """The trainer could not send its weights; it is well, and engines that read have been told."""


class Outlet:
    """Of one rank on `device`."""

    def __init__(self, rank: int, device: torch.device) -> None:
        self._rank, self._device = rank, device
        self._opened: tuple[PublishSpec, Meeting | None] | None = None
        self._publisher: Publisher | None = None
        self._served: tuple[Meeting, Channel] | None = None

    def meet(self, spec: PublishSpec, host: str, receivers: int) -> Meeting:
        """Rank 0 opens a place where a live transport's ends meet; earlier ones are left. host: this machine as others reach it."""
        channel, address = Channel.serve(host, 1 + receivers, self._device, spec.limit_s)
        self._served = (Meeting(address, 1 + receivers), channel)
        return self._served[0]

    def prepare(self, spec: PublishSpec) -> PublishRefused | None:
        """Before engines are told to wait for shared memory: rank 0 holds the lease by which they see that it lives."""
        try:
            self._for(spec, None)
        except SegmentError as error:
            return PublishRefused(str(error))
        return None

    def publish(
        self, number: int, spec: PublishSpec, stream: Iterator[tuple[str, torch.Tensor]], meeting: Meeting | None = None
    ) -> Published | PublishRefused | None:
        """Sends all of `stream`; None on a rank that has nothing to send. number: of the publish, growing; meeting: of a live transport.
        What the stream itself raises passes."""
        try:
            if self._rank == 0 or spec.transport is Transport.CUDA_IPC:
                return self._for(spec, meeting).publish(number, stream)
        except (SegmentError, ChannelError) as error:
            self.close_publisher()
            _exhaust(stream)
            return PublishRefused(str(error))
        _exhaust(stream)
        return None

    def confirm(self, number: int) -> None:
        """Every engine runs what publish `number` brought."""
        if self._publisher is not None:
            self._publisher.confirm(number)

    def close(self) -> None:
        """Safe to call twice."""
        self.close_publisher()
        self._served = None

    def close_publisher(self) -> None:
        publisher, self._publisher, self._opened = self._publisher, None, None
        if publisher is not None:
            publisher.close()

    def _for(self, spec: PublishSpec, meeting: Meeting | None) -> Publisher:
        if self._publisher is None or self._opened != (spec, meeting):
            self.close_publisher()
            self._publisher = self._open(spec, meeting)
            self._opened = (spec, meeting)
        return self._publisher

    def _open(self, spec: PublishSpec, meeting: Meeting | None) -> Publisher:
        if spec.transport is Transport.SHARED_MEMORY:
            return SegmentPublisher(
                spec.name, bucket_mib=spec.limit_mib, only_changed=spec.only_changed, keep_memory=spec.keep_memory
            )
        if spec.transport is Transport.OBJECT_STORE:
            return MessagePublisher(_object_store(), bucket_mib=spec.limit_mib, only_changed=spec.only_changed)
        if meeting is None:
            raise ChannelError(f"{spec.transport} needs a meeting of trainer and engines; call meet first")
        way = Way.LEND if spec.transport is Transport.CUDA_IPC else Way.BROADCAST
        if self._rank == 0:
            channel = self._channel_of(meeting)
        else:
            channel = Channel.join(meeting.address, 0, meeting.size, self._device, spec.limit_s)
        keep = _object_store() if self._rank == 0 else None
        return LivePublisher(channel, way, keep, bucket_mib=spec.limit_mib)

    def _channel_of(self, meeting: Meeting) -> Channel:
        if self._served is None or self._served[0] != meeting:
            raise ChannelError(f"nobody serves {meeting.address} here; call meet first")
        return self._served[1]


def _object_store() -> Store:
    import ray

    return ray.put


def _exhaust(stream: Iterator[tuple[str, torch.Tensor]]) -> None:
    for _ in stream:
        pass
