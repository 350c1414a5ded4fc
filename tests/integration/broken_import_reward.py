"""A reward function whose module can't be imported in a scoring process. For the sandbox tests."""

import os

from rewards import Sample, reward

if os.environ.get("BROKEN"):
    import a_module_that_is_not_there  # noqa: F401


@reward("broken_import")
def broken_import(sample: Sample) -> float:
    return float(len(sample.reply))
