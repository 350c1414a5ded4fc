"""When a server that died is started again: a rule over the times of its deaths, without a clock of its own.

Neighbours: `processes.py` asks it. Invariants: a run gives a server up that keeps dying, since starting it again hides why; a service of
months never does, it only waits longer, and forgets deaths that lie behind it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """most: deaths within window_s seconds that are forgiven, None: any number; first_s, longest_s: pause before a start, doubled with
    every death of the window."""

    most: int | None = None
    window_s: float = math.inf
    first_s: float = 0.2
    longest_s: float = 2.0

    def delay(self, deaths: Sequence[float], now: float) -> float | None:
        """Seconds to wait after the last of `deaths`, times on the clock of `now`; None: give it up."""
        lately = sum(1 for at in deaths if now - at <= self.window_s)
        if self.most is not None and lately > self.most:
            return None
        doublings = min(max(lately - 1, 0), 60)  # 2.0**60 pauses: longest_s has long been reached
        return float(min(self.longest_s, self.first_s * 2.0**doublings))

    def remembered(self, deaths: Sequence[float], now: float) -> list[float]:
        """Those of `deaths` that still count."""
        return [at for at in deaths if now - at <= self.window_s]


SERVICE = RestartPolicy(most=None, window_s=600.0, first_s=0.2, longest_s=30.0)
