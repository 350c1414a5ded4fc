"""Weights on their way out of the trainer: packed into buckets and sent by the transport that the run asks for.

Neighbours: `actor.trainer` brings the tensors one at a time, `rollout.transfer` is the receiving end.
Invariant: names are handed on lazily.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "buckets": ["Packer", "Published", "Spot", "packed"],
        "shared_memory": ["SegmentPublisher"],
        "messages": ["MessagePublisher", "payload_tensors", "update_tensors", "whole_update"],
        "outlet": ["Outlet", "PublishRefused"],
        "live": ["LivePublisher"],
        "spec": ["Meeting", "PublishSpec", "Transport"],
    },
)
