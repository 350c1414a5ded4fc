"""What an experiment needs and lacks, in words that its user can read.

Neighbours: `policy` and `placement` put these into decisions and refusals. Pure; one text a shape, however many experiments have it.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.service.shapes import CPUS, GPUS, MEMORY, SCALE, Amounts, Shape

UNITS = (("GPU", "GPUs"), ("CPU", "CPUs"), ("GiB of memory", "GiB of memory"))


def number(amount: int) -> str:
    return f"{amount / SCALE:,.4f}".rstrip("0").rstrip(".")


def quantity(amount: int, resource: int) -> str:
    """An amount with its unit: "1 GPU", "64 GiB of memory"."""
    return f"{number(amount)} {UNITS[resource][0 if amount == SCALE else 1]}"


def asks(shape: Shape, resource: int | None = None) -> str:
    """What it needs: "8 GPUs on one machine", "16 GPUs in bundles of 8". resource: the one to name, else the first it asks for."""
    if resource is None:
        resource = next((r for r in (GPUS, CPUS, MEMORY) if shape.whole[r]), CPUS)
    amount = quantity(shape.whole[resource], resource)
    if shape.bundles == 1:
        return f"{amount} on one machine"
    sizes = sorted({group[resource] for group, _ in shape.groups if group[resource]}, reverse=True)
    return f"{amount} in bundles of {_joined([number(size) for size in sizes])}"


def never(shape: Shape, totals: Amounts) -> str:
    """Why it does not fit these machines, empty as they may be."""
    if not len(totals):
        return f"asks for {asks(shape)}; the cluster has no machine"
    sums, most, largest = totals.sum(axis=0), totals.max(axis=0), shape.largest
    for r in (GPUS, CPUS, MEMORY):
        if shape.whole[r] > sums[r] or largest[r] > most[r]:
            return (
                f"asks for {asks(shape, r)}; the cluster has {quantity(int(sums[r]), r)} on {_machines(len(totals))}, "
                f"the largest machine {number(int(most[r]))}"
            )
    whole = _joined([quantity(shape.whole[r], r) for r in (GPUS, CPUS, MEMORY) if shape.whole[r]])
    has = _joined([quantity(int(sums[r]), r) for r in (GPUS, CPUS, MEMORY) if sums[r]])
    return (
        f"asks for {whole} in {shape.bundles} bundles; the cluster has {has} on {_machines(len(totals))}, "
        "but not divided so that every bundle finds all it needs on one machine"
    )


def lacks(shape: Shape, free: Amounts) -> str:
    """What it needs and how much of that is free: "needs 8 GPUs on one machine, 3 are free"."""
    alone = shape.bundles == 1
    most = free.max(axis=0) if alone else free.sum(axis=0)
    for r in (GPUS, CPUS, MEMORY):
        if shape.whole[r] > most[r]:
            return f"needs {asks(shape, r)}, {_are(int(most[r]), 'at most ' if alone and len(free) > 1 else '')} free"
    if alone:
        whole = _joined([quantity(shape.whole[r], r) for r in (GPUS, CPUS, MEMORY) if shape.whole[r]])
        return f"needs {whole} on one machine, no machine has all of it free"
    r = next((r for r in (GPUS, CPUS, MEMORY) if shape.largest[r]), CPUS)
    spread = f"{_are(int(most[r]))} free, at most {number(int(free[:, r].max()))} on one machine"
    return f"needs {asks(shape, r)}, {spread}"


def held(shape: Shape, holders: Sequence[str]) -> str:
    return f"needs {asks(shape)}, which is free but held for {_joined(list(holders))}, waiting longer"


def machines(names: Sequence[str]) -> str:
    """A few by name, many by number."""
    distinct = list(dict.fromkeys(names))
    if not distinct:
        return "no machine in particular"
    return _joined(distinct) if len(distinct) <= 3 else _machines(len(distinct))


def _are(amount: int, at_most: str = "") -> str:
    return f"{at_most}{number(amount)} {'is' if amount == SCALE else 'are'}"


def _machines(count: int) -> str:
    return "1 machine" if count == 1 else f"{count} machines"


def _joined(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
