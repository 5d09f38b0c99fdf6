"""table compare: two latency tables side by side, row by row."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ofa_kit.errors import TableError
from ofa_kit.latency.table import LatencyTable
from ofa_kit.predictors import scores

TOGETHER = 2
"""Rows that two tables must have in common to be compared."""


@dataclass(frozen=True)
class Agreement:
    """How the rows that two tables have in common compare: B against A."""

    kind: str
    rows: int
    only_a: int
    only_b: int
    ratio: float
    """Median of B / A."""
    median_difference: float
    """Median of |B / A - 1| in percent."""
    without_ratio: float
    """Median of |B / A / ratio - 1| in percent: what is left where calibration takes out the ratio."""
    largest_difference: float
    """Largest |B / A - 1| in percent."""
    within_5: float
    """Share of rows that differ by at most 5 %."""
    tau: float
    """Kendall's rank correlation."""


@dataclass(frozen=True)
class Compared:
    """Two tables: what differs around them, and how their rows agree."""

    differences: Mapping[str, tuple[str, str]]
    """Facts that differ, by name: of A, of B."""
    agreements: list[Agreement]

    def to_dict(self) -> dict[str, object]:
        return {"differences": dict(self.differences), "agreements": [asdict(found) for found in self.agreements]}


def compare_tables(a: Path, b: Path) -> Compared:
    """Compare two table files (.csv) of the same space; a TableError when they have nothing in common."""
    first, second = LatencyTable.read(a), LatencyTable.read(b)
    spaces = [table.provenance.get("space_fingerprint") for table in (first, second)]
    if spaces[0] != spaces[1]:
        names = [str(table.provenance.get("space")) for table in (first, second)]
        raise TableError(f"'{a}' is of space '{names[0]}' ({spaces[0]}), '{b}' of '{names[1]}' ({spaces[1]})")
    found = [
        _agreement("block", first.blocks, second.blocks),
        _agreement("subnet", _subnets(first), _subnets(second)),
    ]
    agreements = [value for value in found if value]
    if not agreements:
        raise TableError(f"'{a}' and '{b}' have fewer than {TOGETHER} blocks or subnets in common")
    return Compared(_differences(first, second), agreements)


def _subnets(table: LatencyTable) -> dict[str, float]:
    return {key: found.latency_ms for key, (_, found) in table.subnets.items()}


def _agreement(kind: str, a: Mapping[str, float], b: Mapping[str, float]) -> Agreement | None:
    keys = sorted(a.keys() & b.keys())
    if len(keys) < TOGETHER:
        return None
    x, y = (np.array([values[key] for key in keys]) for values in (a, b))
    ratio = float(np.median(y / x))
    moved = np.abs(y / x - 1)
    return Agreement(
        kind=kind,
        rows=len(keys),
        only_a=len(a) - len(keys),
        only_b=len(b) - len(keys),
        ratio=ratio,
        median_difference=float(100 * np.median(moved)),
        without_ratio=float(100 * np.median(np.abs(y / x / ratio - 1))),
        largest_difference=float(100 * moved.max()),
        within_5=float(np.mean(moved <= 0.05)),
        tau=scores.kendall_tau(y, x),
    )


def _differences(a: LatencyTable, b: LatencyTable) -> dict[str, tuple[str, str]]:
    facts = [_flat(table.provenance) for table in (a, b)]
    names = sorted(facts[0].keys() | facts[1].keys())
    pairs = {name: (facts[0].get(name, "-"), facts[1].get(name, "-")) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _flat(values: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        found |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {name: str(value)}
    return found
