"""What a run's endpoint rewards have cost: requests, tokens, money, summed in memory and appended to a file.

    {"time": 1763900000.0, "term": "judge", "model": "m", "tokens_in": 410, "tokens_out": 96, "money": 0.0019, "estimated": false}

One line an answered request, also one whose answer was of no use: it was paid for. Neighbours: `judge` writes, the run's record
reads `total`. Invariants: a budget counts what earlier processes of the same run have spent (the file is read at the start);
money is tokens times the prices given as parameters, in whatever currency those are.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from rewards.errors import RewardError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cost:
    """requests: answered; tokens_in, tokens_out: as the server counted them, else estimated; money: in the prices' currency."""

    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    money: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.requests + other.requests,
            self.tokens_in + other.tokens_in,
            self.tokens_out + other.tokens_out,
            self.money + other.money,
        )


class CostLedger:
    """Costs of one term. path: JSONL file that all terms and processes of a run may share; None keeps them in memory only."""

    def __init__(self, term: str, path: Path | None = None) -> None:
        """Raises RewardError when the file can't be read or written."""
        self.term = term
        self.path = path
        self._total = Cost()
        self._lock = threading.Lock()
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
                self._total = read_costs(path).get(term, Cost())
            except OSError as error:
                raise RewardError(f"the cost ledger {path} can't be used: {error}") from error

    @property
    def total(self) -> Cost:
        """Everything so far, earlier processes of the run included."""
        return self._total

    def add(self, model: str, tokens_in: int, tokens_out: int, money: float, *, estimated: bool = False) -> None:
        with self._lock:
            self._total += Cost(1, tokens_in, tokens_out, money)
            if self.path is None:
                return
            entry = {
                "time": round(time.time(), 3), "term": self.term, "model": model, "tokens_in": tokens_in,
                "tokens_out": tokens_out, "money": money, "estimated": estimated,
            }  # fmt: skip
            try:
                os.write(self._file, json.dumps(entry).encode() + b"\n")
            except OSError as error:  # the sum in memory still holds the budget
                log.warning(
                    "the cost ledger %s can't be written: %s; costs of %r are in memory only",
                    self.path,
                    error,
                    self.term,
                )
                self.path = None

    def close(self) -> None:
        if self.path is not None:
            os.close(self._file)
            self.path = None


def read_costs(path: Path) -> dict[str, Cost]:
    """Sums by term. A last line that a kill has torn is left out, with a warning. Raises OSError."""
    sums: dict[str, Cost] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            entry = json.loads(line)
            term, cost = entry["term"], Cost(1, entry["tokens_in"], entry["tokens_out"], entry["money"])
        except (ValueError, KeyError, TypeError):
            log.warning("%s, line %d is no entry of a cost ledger; it is not counted", path, number)
            continue
        sums[term] = sums.get(term, Cost()) + cost
    return sums
