"""One seed for a run, a seed of its own for everything in it.

Neighbours: stages and cursor. Invariant: the same run seed and the same name give the same number on every machine and Python.
"""

from hashlib import blake2b

SEED_BITS = 31  # engines and numpy take non-negative 32-bit seeds


def derive(run_seed: int, *name: str | int) -> int:
    """0 ≤ seed < 2**31 for what `name` spells, independent between names."""
    text = "\x1f".join([str(run_seed), *map(str, name)])
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") % (1 << SEED_BITS)
