"""A sample as one line of JSON and back: what travels between processes, and what is kept on disk.

Neighbours: the scorer encodes once, a scoring process decodes once a call, `stored` keeps the same lines in files.
Invariants: no line break inside a line; equal samples give equal bytes, so a digest of the line names the sample.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from rewards.messages import Sample

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Sample)


def encode_sample(sample: Sample) -> bytes:
    """Raises TypeError for a question that holds what JSON can't."""
    return _encoder.encode(sample)


def encode_lines(samples: Sequence[Sample]) -> bytes:
    """Each sample as by `encode_sample`, followed by a line break. Raises as `encode_sample`."""
    return _encoder.encode_lines(samples)


def decode_sample(line: bytes) -> Sample:
    """Raises msgspec.ValidationError for what is not a sample, msgspec.DecodeError for what is not JSON."""
    return _decoder.decode(line)
