"""How hard text problems are: small numbers for a model of a million parameters, larger ones for larger models.

Neighbours: `problems` draws within it, `build` keeps it in the manifest. Invariant: every family has problems at any difficulty.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.datasets.schema import DataError

PEOPLE = 8  # names there are


@dataclass(frozen=True, slots=True)
class Difficulty:
    """largest: no number of a problem or its answer is above it; factor: largest factor of a product and coefficient of x;
    numbers: how many are compared or sorted; people: how many are put in order; turned: statements about them come in any order
    and either direction (`Ben is shorter than Ann`). Raises DataError for values that leave a family without problems.
    """

    largest: int = 49
    factor: int = 9
    numbers: int = 3
    people: int = 3
    turned: bool = False

    def __post_init__(self) -> None:
        if self.largest < 10 or not 2 <= self.factor <= self.largest:
            raise DataError(f"text problems need largest >= 10 and 2 <= factor <= largest, got {self}")
        if not (2 <= self.numbers <= 8 and 3 <= self.people <= PEOPLE):
            raise DataError(f"text problems compare 2 to 8 numbers and 3 to {PEOPLE} people, got {self}")


EASY = Difficulty()
