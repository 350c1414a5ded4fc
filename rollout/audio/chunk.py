"""Long audio in pieces the encoder can take: 25 s each, as the public client cuts.

Invariants: pieces are consecutive and cover everything; none is longer than 25.1 s, so never over the encoder's 29.98 s; a rest
shorter than 0.1 s stays with the piece before it.
"""

from __future__ import annotations

import numpy as np

from rollout.model.lengths import SAMPLE_RATE

CHUNK_SAMPLES = 25 * SAMPLE_RATE
SHORTEST_REST = SAMPLE_RATE // 10


def chunk_bounds(samples: int) -> list[tuple[int, int]]:
    """(start, stop) of every chunk of a waveform of `samples` at 16 kHz."""
    starts = list(range(0, max(samples, 1), CHUNK_SAMPLES))
    if len(starts) > 1 and samples - starts[-1] < SHORTEST_REST:
        starts.pop()
    return list(zip(starts, [*starts[1:], samples], strict=True))


def chunk_count(seconds: float) -> int:
    """Chunks of a recording of that length."""
    return len(chunk_bounds(round(seconds * SAMPLE_RATE)))


def chunk_wave(wave: np.ndarray) -> list[np.ndarray]:
    """Views of the waveform [L], one a chunk."""
    return [wave[start:stop] for start, stop in chunk_bounds(len(wave))]
