"""A reward function whose module needs 200 MB to be imported. For the sandbox tests."""

from rewards import Sample, reward

TABLE = bytearray(200 << 20)


@reward("hungry")
def hungry(sample: Sample) -> float:
    return float(len(TABLE))
