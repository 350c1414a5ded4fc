"""In which order questions are drawn: shuffled anew each epoch, by seed.

Neighbours: the `reinforce` stage takes a batch an update, the controller stores `state_dict` in every checkpoint.
Invariants: within an epoch nothing is skipped or repeated, across any save and restore; one `take` never holds an index twice (ids
of trajectories rest on that); the order depends on size, seed and the sizes of the takes, on nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any


class Cursor:
    """Hands out indices 0..size-1. Raises ValueError for a size below 1."""

    def __init__(self, size: int, seed: int) -> None:
        if size < 1:
            raise ValueError(f"a cursor needs at least one question, got {size}")
        self.size, self.seed = size, seed
        self.epoch = 0
        self._position = 0
        self._late: tuple[int, ...] = ()
        self._order = self._shuffled()

    def take(self, count: int) -> list[int]:
        """The next `count` indices, going into the next epoch where this one ends.

        Raises ValueError when count is not in 0..size: a batch larger than the pool would hold questions twice.
        """
        if not 0 <= count <= self.size:
            raise ValueError(
                f"cannot take {count} different questions out of {self.size}; use a smaller batch or more questions"
            )
        taken = self._order[self._position : self._position + count]
        self._position += len(taken)
        if len(taken) < count:
            self.epoch += 1
            self._late = tuple(taken)
            self._order = self._shuffled()
            self._position = count - len(taken)
            taken = taken + self._order[: self._position]
        return taken

    def state_dict(self) -> dict[str, Any]:
        """Plain values (JSON) from which `load_state_dict` goes on exactly here."""
        return {
            "size": self.size,
            "seed": self.seed,
            "epoch": self.epoch,
            "position": self._position,
            "late": list(self._late),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises ValueError when the state belongs to another number of questions or another seed."""
        if (state["size"], state["seed"]) != (self.size, self.seed):
            raise ValueError(
                f"the saved cursor is over {state['size']} questions with seed {state['seed']}, this one over {self.size} with seed "
                f"{self.seed}; resume with the data and the seed of the first run"
            )
        self.epoch, self._position = state["epoch"], state["position"]
        self._late = tuple(state["late"])
        self._order = self._shuffled()

    def _shuffled(self) -> list[int]:
        """This epoch's order; what the take across the border had from the last epoch comes late in it."""
        order = list(range(self.size))
        random.Random(f"cursor/{self.seed}/{self.epoch}").shuffle(order)
        late = set(self._late)
        return [i for i in order if i not in late] + [i for i in order if i in late]
