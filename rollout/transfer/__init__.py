"""Weights on their way into engines: what both ends agree on, and the receiving end.

Neighbours: `actor.publishing` is the sending end; `rollout.engine` and its vLLM worker receive.
Invariants: names are handed on lazily; nothing here needs vLLM or Ray, so that a benchmark can receive as an engine does.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "manifest": ["Bucket", "TensorEntry", "WeightBucket", "whole_checksum"],
        "digest": ["copy_with_digest", "digest_of", "raw_bytes", "word_digest"],
        "channel": ["Channel", "ChannelError", "Way", "here"],
        "segment": [
            "SHARED_PAGE",
            "Journal",
            "Lease",
            "SegmentError",
            "Slot",
            "journal_path",
            "lease_base",
            "memory_identity",
            "sweep",
        ],
        "tail": ["SegmentView", "buckets_of"],
        "reception": ["Receipt", "Reception", "receive_segment"],
        "companions": ["with_companions"],
    },
)
