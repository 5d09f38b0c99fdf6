"""LatencyTable: rows of blocks and of whole subnets for one device profile and one space, on disk as CSV + JSON.

The CSV only grows. A block row has its lowering key and the time of its kernels inside a merged graph; a subnet row
has its architecture and the time of the whole network. Rows of a failed measurement carry `error`. The JSON beside
it says what was measured, where and how.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ofa_kit import storage
from ofa_kit.arch.config import ARCH_COLUMNS, ArchConfig
from ofa_kit.arch.space import SearchSpace
from ofa_kit.errors import StaleTableError, TableError
from ofa_kit.latency.device import DeviceProfile, fingerprint
from ofa_kit.latency.protocol import Measurement

COLUMNS = (
    "kind", "key", *ARCH_COLUMNS, "latency_ms", "p50_ms", "p90_ms", "runs", "converged", "load", "measured_at", "error",
)  # fmt: skip


@dataclass
class LatencyTable:
    """The rows in memory: `blocks` by lowering key (ms), `subnets` by architecture key."""

    path: Path
    provenance: dict[str, Any]
    blocks: dict[str, float] = field(default_factory=dict)
    subnets: dict[str, tuple[ArchConfig, Measurement]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, root: Path, profile: DeviceProfile, space: SearchSpace) -> "LatencyTable":
        """Read the table of a profile and space; TableError where there is none, StaleTableError for another's."""
        path = root / profile.table_folder / f"{space.name}.csv"
        if not path.with_suffix(".json").exists():
            raise TableError(
                f"no latency table for device '{profile.name}' and space '{space.name}' in '{root}'; "
                f"run `ofa-kit profile --device {profile.name} --space {space.name}` (or --run NAME) first"
            )
        try:
            provenance = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        except ValueError as error:
            raise TableError(f"'{path.with_suffix('.json')}' is damaged; delete it and profile again") from error
        table = cls(path, provenance)
        table._refuse_other(profile, space)
        for row in storage.read_rows(path, COLUMNS):
            table._take(row)
        return table

    @classmethod
    def create(
        cls, root: Path, profile: DeviceProfile, space: SearchSpace, provenance: dict[str, Any]
    ) -> "LatencyTable":
        """Start a new table, keeping rows that stand there for the same space and profile."""
        path = root / profile.table_folder / f"{space.name}.csv"
        if not path.with_suffix(".json").exists():
            facts = {"space": space.name, "space_fingerprint": space.fingerprint, **provenance}
            storage.write_text(path.with_suffix(".json"), json.dumps(facts, indent=2) + "\n")
        return cls.open(root, profile, space)

    def add_blocks(self, times_ms: dict[str, float], *, runs: int, load: float, measured_at: str) -> None:
        """Append block rows; a block that is there already stays as it was."""
        common = {"runs": runs, "converged": True, "load": f"{load:.2f}", "measured_at": measured_at}
        rows = [
            {"kind": "block", "key": key, "latency_ms": f"{ms:.6f}", **common}
            for key, ms in times_ms.items()
            if key not in self.blocks
        ]
        self._append(rows)

    def add_subnet(self, arch: ArchConfig, found: Measurement, *, load: float, measured_at: str) -> None:
        """Append one whole-network row; an architecture that is there already stays as it was."""
        if arch.key in self.subnets:
            return
        row: dict[str, object] = {
            "kind": "subnet", "key": arch.key, **arch.to_row(), "latency_ms": f"{found.latency_ms:.6f}",
            "p50_ms": f"{found.p50_ms:.6f}", "p90_ms": f"{found.p90_ms:.6f}", "runs": found.runs,
            "converged": found.converged, "load": f"{load:.2f}", "measured_at": measured_at,
        }  # fmt: skip
        self._append([row])

    def add_failure(self, arch: ArchConfig, error: str, *, load: float, measured_at: str) -> None:
        """Append the row of a measurement that failed."""
        row: dict[str, object] = {
            "kind": "subnet",
            "key": arch.key,
            **arch.to_row(),
            "error": error,
            "load": f"{load:.2f}",
        }
        self._append([row | {"measured_at": measured_at}])

    def reference_ms(self, measured_ms: float) -> float:
        """Return the reference kernel's time of the first session; the first call stores it."""
        if "reference_ms" not in self.provenance:
            self.provenance["reference_ms"] = measured_ms
            storage.write_text(self.path.with_suffix(".json"), json.dumps(self.provenance, indent=2) + "\n")
        return float(self.provenance["reference_ms"])

    def _append(self, rows: Iterable[dict[str, object]]) -> None:
        rows = list(rows)
        storage.append_rows(self.path, COLUMNS, rows)
        for row in rows:
            self._take({column: str(row.get(column, "")) for column in COLUMNS})

    def _take(self, row: dict[str, str]) -> None:
        try:
            if row["error"]:
                self.failed[row["key"]] = row["error"]
            elif row["kind"] == "block":
                self.blocks[row["key"]] = float(row["latency_ms"])
            else:
                found = Measurement(
                    latency_ms=float(row["latency_ms"]),
                    p50_ms=float(row["p50_ms"]),
                    p90_ms=float(row["p90_ms"]),
                    runs=int(row["runs"]),
                    converged=row["converged"] == "True",
                )
                self.subnets[row["key"]] = (ArchConfig.from_row(row), found)
            if row["latency_ms"] and not 0 < float(row["latency_ms"]) < math.inf:
                raise ValueError(f"latency_ms {row['latency_ms']}")
        except ValueError as error:
            raise TableError(f"'{self.path}' has a damaged row {row['kind']} {row['key']}: {error}") from error

    def _refuse_other(self, profile: DeviceProfile, space: SearchSpace) -> None:
        found = self.provenance
        if found.get("space_fingerprint") != space.fingerprint:
            raise StaleTableError(
                f"'{self.path}' was measured for space '{found.get('space')}' ({found.get('space_fingerprint')}), "
                f"asked for '{space.name}' ({space.fingerprint}); move it away and run "
                f"`ofa-kit profile --device {profile.name}`"
            )
        machine = fingerprint()["processor"]
        if found.get("machine", {}).get("processor", machine) != machine:
            raise StaleTableError(
                f"'{self.path}' was measured on a {found['machine']['processor']}, this machine has a {machine}; "
                "use another folder: --tables NAME"
            )
        asked = {"provider": profile.provider, "threads": profile.threads}
        other = {k: found.get("device", {}).get(k) for k in asked}
        if other != asked:
            raise StaleTableError(
                f"'{self.path}' was measured with {other}, the device profile says {asked}; "
                "give the profile another name or move the table away"
            )
