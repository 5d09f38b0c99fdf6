"""profile --check: does a latency table still hold? Some of its subnets are measured again."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.space import SearchSpace
from ofa_kit.commands.profile import TABLES, measure_in_sessions
from ofa_kit.errors import StaleTableError, TableError
from ofa_kit.latency.backends import backend_for
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.latency.side_by_side import REFERENCE_TOLERANCE
from ofa_kit.latency.table import LatencyTable
from ofa_kit.progress import Reporter, Silent

TOLERANCE = 0.05
"""Share by which the median of the rows may have moved."""
ROW_TOLERANCE = 0.15
"""Share by which a single row may have moved."""


@dataclass(frozen=True)
class Checked:
    """Subnets measured again: keys, then and now in milliseconds, and what changed around them."""

    keys: Sequence[str]
    stored_ms: Sequence[float]
    now_ms: Sequence[float]
    reference_ratio: float
    """Reference kernel now / when the table was begun: what the machine itself lost or gained."""
    changed_versions: Sequence[str]

    @property
    def ratio(self) -> float:
        """Median of now / stored."""
        return float(np.median(np.array(self.now_ms) / np.array(self.stored_ms)))

    @property
    def worst(self) -> float:
        """Largest share by which one row moved."""
        return float(np.max(np.abs(np.array(self.now_ms) / np.array(self.stored_ms) - 1)))

    @property
    def holds(self) -> bool:
        return abs(self.ratio - 1) <= TOLERANCE and self.worst <= ROW_TOLERANCE


def check_table(
    device: DeviceProfile,
    space: SearchSpace,
    *,
    subnets: int = 6,
    tables: Path = TABLES,
    reporter: Reporter | None = None,
) -> Checked:
    """Measure some rows of a table again, spread over its latencies; nothing is written."""
    reporter = reporter or Silent()
    table = LatencyTable.open(tables, device, space)
    table.refuse_elsewhere("its rows")
    backend = backend_for(device)
    archs = _spread(table, subnets)
    with reporter.task("checked rows", 1) as advance:
        found, failed, reference_ms = measure_in_sessions(space, backend, archs)
        advance(1, "")
    if failed:
        raise StaleTableError(f"'{table.path}': {device.name} no longer runs {', '.join(failed)}; profile anew")
    return Checked(
        keys=[arch.key for arch in archs],
        stored_ms=[table.subnets[arch.key][1].latency_ms for arch in archs],
        now_ms=[found[arch].latency_ms for arch in archs],
        reference_ratio=reference_ms / float(table.provenance.get("reference_ms", reference_ms)),
        changed_versions=_changed(table.provenance.get("versions", {}), dict(backend.versions)),
    )


def refuse_stale(checked: Checked, table: Path) -> None:
    """Raise a StaleTableError where the table no longer holds."""
    if checked.holds:
        return
    causes = [*checked.changed_versions]
    if abs(checked.reference_ratio - 1) > REFERENCE_TOLERANCE:
        causes.append(f"the reference kernel takes {checked.reference_ratio:.2f} times as long as then")
    why = "; ".join(causes) or "neither versions nor the reference kernel changed"
    raise StaleTableError(
        f"'{table}' no longer holds: its subnets take {checked.ratio:.3f} times as long as stored (median of "
        f"{len(checked.keys)}, measured), one moved by {100 * checked.worst:.0f} % ({why}); wait until the machine is "
        "idle and check again, or move the table away and profile anew"
    )


def _spread(table: LatencyTable, count: int) -> list[ArchConfig]:
    """Return measured subnets evenly spread over the order of their latencies, converged ones where there are any."""
    found = table.subnets.values()
    if not found:
        raise TableError(f"'{table.path}' has no measured subnet to check; run `ofa-kit profile` first")
    steady = [(one.latency_ms, arch.key) for arch, one in found if one.converged]
    order = sorted(steady or [(one.latency_ms, arch.key) for arch, one in found])
    places = np.unique(np.linspace(0, len(order) - 1, count).round().astype(int))
    return [table.subnets[order[place][1]][0] for place in places]


def _changed(then: dict[str, str], now: dict[str, str]) -> list[str]:
    return [f"{name} was {then[name]} and is {now[name]}" for name in now if name in then and then[name] != now[name]]
