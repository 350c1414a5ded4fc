"""From a file to encoder features: decode, mono, 16 kHz, chunks, log-mel, frozen encoder, cache by content hash.

Neighbours: `orchestrator.datasets` checks clips with `load_audio`; engine and trainer read the cache by key.
Invariants: features depend only on the clip's bytes and on the encoder; both sides of training read the same stored array.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "chunk": ["chunk_bounds", "chunk_count", "chunk_wave"],
        "decode": ["AudioError", "load_audio", "sha256_of_file"],
        "features": ["FeatureCache", "FeatureError"],
        "frozen": ["FrozenEncoder"],
        "refs": ["FeatureRef"],
    },
)
