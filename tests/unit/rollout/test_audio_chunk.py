"""Chunks cover the waveform and fit the encoder."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rollout.audio import chunk_bounds, chunk_count, chunk_wave


@given(st.integers(1600, 5_000_000))
def test_chunks_cover_everything_and_fit_the_encoder(samples):
    bounds = chunk_bounds(samples)
    assert bounds[0][0] == 0 and bounds[-1][1] == samples
    assert all(left[1] == right[0] for left, right in pairwise(bounds))
    lengths = [stop - start for start, stop in bounds]
    assert max(lengths) < 401_600 < 479_680
    assert min(lengths) >= 1600


def test_seventy_seconds_are_three_chunks():
    assert [len(c) for c in chunk_wave(np.zeros(70 * 16000))] == [400000, 400000, 320000]
    assert chunk_count(70.0) == 3 and chunk_count(25.0) == 1 and chunk_count(25.05) == 1 and chunk_count(25.2) == 2
