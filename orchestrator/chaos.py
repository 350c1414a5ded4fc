"""Named points at which a test may kill this process, as a machine would: at once, by SIGKILL.

Neighbours: `controller` and `stages` pass through `point(name)`; tests/chaos sets MGRD_CHAOS_POINT. Invariant: without that
variable a point costs one dictionary look-up and does nothing.
"""

import os
import signal

VARIABLE = "MGRD_CHAOS_POINT"


def point(name: str) -> None:
    """Die here when MGRD_CHAOS_POINT names this point (`update:3:after_rollout`)."""
    if os.environ.get(VARIABLE) == name:
        os.kill(os.getpid(), signal.SIGKILL)
