"""Questions: the JSONL format with its checks, the order they are drawn in, and the data sets built here.

Neighbours: `data_stage` loads, stages draw by `Cursor`, `acoustic_qa` builds. Invariant: names are handed on lazily.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "cursor": ["Cursor"],
        "demonstrations": ["Demonstration", "direct_audio", "read_demonstrations", "write_demonstrations"],
        "jsonl": ["load_questions", "write_questions"],
        "mixing": ["token_mixed_batches", "usable_shares"],
        "schema": ["DataError", "Problem"],
    },
)
