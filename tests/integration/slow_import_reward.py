"""A reward function whose module is never done with being imported in a scoring process. For the sandbox tests."""

import os
import time

from rewards import Sample, reward

if os.environ.get("SLOW"):
    time.sleep(60)


@reward("slow_import")
def slow_import(sample: Sample) -> float:
    return float(len(sample.reply))
