"""Counters of the HTTP service, in the text format of Prometheus (exposition format 0.0.4).

Neighbours: `http` counts here and serves the text. Invariant: several threads may count at once.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence

from rewards.messages import Verdict


class Metrics:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[int] = Counter()
        self._samples = self._invalid = 0
        self._seconds = 0.0
        self._scored: Counter[str] = Counter()
        self._spent: dict[str, float] = {}

    def scored(self, verdicts: Sequence[Verdict], seconds: float) -> None:
        with self._lock:
            self._requests[200] += 1
            self._samples += len(verdicts)
            self._invalid += sum(not verdict.valid for verdict in verdicts)
            self._seconds += seconds
            for verdict in verdicts:
                for name, spent in verdict.seconds.items():
                    self._scored[name] += 1
                    self._spent[name] = self._spent.get(name, 0.0) + spent

    def refused(self, status: int) -> None:
        with self._lock:
            self._requests[status] += 1

    def text(self, waiting: int) -> str:
        with self._lock:
            rows: list[tuple[str, str, dict[str, float]]] = [
                ("requests_total", "counter", {f'status="{k}"': v for k, v in sorted(self._requests.items())}),
                ("samples_total", "counter", {"": self._samples}),
                ("invalid_total", "counter", {"": self._invalid}),
                ("request_seconds_total", "counter", {"": self._seconds}),
                ("waiting_samples", "gauge", {"": waiting}),
                ("reward_scored_total", "counter", {f'reward="{k}"': v for k, v in sorted(self._scored.items())}),
                ("reward_seconds_total", "counter", {f'reward="{k}"': v for k, v in sorted(self._spent.items())}),
            ]
        lines: list[str] = []
        for name, kind, values in rows:
            lines.append(f"# TYPE mgrd_rewards_{name} {kind}")
            lines += [f"mgrd_rewards_{name}{{{label}}} {value}" if label else f"mgrd_rewards_{name} {value}"
                      for label, value in values.items()]  # fmt: skip
        return "\n".join(lines) + "\n"
