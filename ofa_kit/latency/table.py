"""LatencyTable: rows of blocks and of whole subnets for one device profile and one space, on disk as CSV + JSON.

The CSV only grows, by a row a session: of a block with its lowering key and the time of its kernels inside a merged
graph, of a subnet with its architecture and the time of the whole network. The least of the sessions counts. Rows of a
failed measurement carry `error`. The JSON beside it says what was measured, where and how.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ofa_kit import storage
from ofa_kit.arch.config import ARCH_COLUMNS, ArchConfig
from ofa_kit.arch.space import SearchSpace
from ofa_kit.errors import StaleTableError, TableError
from ofa_kit.latency.board.runner.machine import fingerprint
from ofa_kit.latency.costs import Costs
from ofa_kit.latency.device import MADE_BY, DeviceProfile
from ofa_kit.latency.protocol import Measurement, TimingProtocol, of_sessions, settled

COLUMNS = (
    "kind", "key", *ARCH_COLUMNS, "latency_ms", "p50_ms", "p90_ms", "p99_ms", "cv", "runs", "converged",
    "model_mib", "peak_memory_mib", "energy_mj", "load", "measured_at", "error",
)  # fmt: skip


COSTS = tuple(field.name for field in fields(Costs))


@dataclass
class LatencyTable:
    """The rows in memory: `blocks` by lowering key (ms), `subnets` by architecture key, of all their sessions."""

    path: Path
    provenance: dict[str, Any]
    blocks: dict[str, float] = field(default_factory=dict)
    subnets: dict[str, tuple[ArchConfig, Measurement]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    costs: dict[str, Costs] = field(default_factory=dict)
    """What subnets cost beside time, by architecture key."""
    sessions: dict[str, list[Measurement]] = field(default_factory=dict)
    """What each session said of a subnet, by architecture key."""
    block_sessions: dict[str, list[float]] = field(default_factory=dict)
    """What each session said of a block (ms), by lowering key."""

    @classmethod
    def open(cls, root: Path, profile: DeviceProfile, space: SearchSpace) -> "LatencyTable":
        """Read the table of a profile and space; TableError where there is none, StaleTableError for another's."""
        path = root / profile.table_folder / f"{space.name}.csv"
        if not path.with_suffix(".json").exists():
            raise TableError(
                f"no latency table for device '{profile.name}' and space '{space.name}' in '{root}'; "
                f"run `ofa-kit profile --device {profile.name} --space {space.name}` (or --run NAME) first"
            )
        table = cls._with_provenance(path)
        table._refuse_other(profile, space)
        table._read_rows()
        return table

    @classmethod
    def read(cls, path: Path) -> "LatencyTable":
        """Read any table file (.csv with its .json), wherever it was measured."""
        if path.suffix != ".csv" or not path.exists() or not path.with_suffix(".json").exists():
            raise TableError(f"no latency table '{path}'; give the .csv file of a table, with its .json beside it")
        table = cls._with_provenance(path)
        table._read_rows()
        return table

    @classmethod
    def _with_provenance(cls, path: Path) -> "LatencyTable":
        try:
            return cls(path, dict(json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))))
        except (ValueError, TypeError) as error:
            raise TableError(f"'{path.with_suffix('.json')}' is damaged; delete it and profile again") from error

    def _read_rows(self) -> None:
        for row in storage.read_rows(self.path, COLUMNS):
            self._take(row)

    @classmethod
    def create(
        cls, root: Path, profile: DeviceProfile, space: SearchSpace, provenance: dict[str, Any]
    ) -> "LatencyTable":
        """Start a new table, keeping rows that stand there for the same space and profile."""
        path = root / profile.table_folder / f"{space.name}.csv"
        if not path.with_suffix(".json").exists():
            facts = {
                "space": space.name,
                "space_fingerprint": space.fingerprint,
                "device": asdict(profile),
                **provenance,
            }
            storage.write_text(path.with_suffix(".json"), json.dumps(facts, indent=2) + "\n")
        return cls.open(root, profile, space)

    def add_blocks(self, times_ms: Iterable[tuple[str, float]], *, runs: int, load: float, measured_at: str) -> None:
        """Append what sessions said of blocks, by lowering key."""
        common = {"runs": runs, "load": f"{load:.2f}", "measured_at": measured_at}
        rows = [{"kind": "block", "key": key, "latency_ms": float(ms), **common} for key, ms in times_ms]
        self._append(rows)

    def lacks_block(self, key: str, session: int) -> bool:
        """Return whether a session (0, 1, ...) of a block is still to be measured."""
        return len(self.block_sessions.get(key, [])) <= session

    def add_subnet(
        self, arch: ArchConfig, found: Measurement, *, load: float, measured_at: str, costs: Costs | None = None
    ) -> None:
        """Append what one session said of a whole network."""
        row = {"kind": "subnet", "key": arch.key, **arch.to_row(), **found.to_row()}
        row.update(load=f"{load:.2f}", measured_at=measured_at)
        known = {name: value for name, value in asdict(costs or Costs()).items() if value is not None}
        self._append([row | {name: f"{value:.4f}" for name, value in known.items()}])

    def lacks(self, arch: ArchConfig, session: int) -> bool:
        """Return whether a session (0, 1, ...) of the whole network is still to be measured."""
        done = self.sessions.get(arch.key, [])
        return arch.key not in self.failed and len(done) <= session and not settled(done, self.protocol)

    @property
    def protocol(self) -> TimingProtocol:
        """The protocol that the table was begun with."""
        return TimingProtocol(**self.provenance.get("device", {}).get("protocol", {}))

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

    def refuse_elsewhere(self, what: str) -> None:
        """Raise a TableError where the rows come from another machine than this one."""
        if self.provenance.get("measured_elsewhere"):
            raise TableError(
                f"'{self.path}' was measured elsewhere or imported, so {what} cannot be measured here; make a kit "
                "(`ofa-kit profile --bundle`), run it there and bring its results back (--import-results)"
            )

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
                times = self.block_sessions.setdefault(row["key"], [])
                times.append(float(row["latency_ms"]))
                self.blocks[row["key"]] = min(times)
            else:
                sessions = self.sessions.setdefault(row["key"], [])
                sessions.append(Measurement.from_row(row))
                self.subnets[row["key"]] = (ArchConfig.from_row(row), of_sessions(sessions, self.protocol.tolerance))
                costs = {name: float(row[name]) for name in COSTS if row[name]}
                if costs:
                    self.costs[row["key"]] = Costs(**costs)
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
        here = not found.get("measured_elsewhere")  # by a kit on a board: what it runs on is never this machine
        if here and found.get("machine", {}).get("processor", machine) != machine:
            raise StaleTableError(
                f"'{self.path}' was measured on a {found['machine']['processor']}, this machine has a {machine}; "
                "use another folder: --tables NAME"
            )
        stored = found.get("device", {})
        asked = {key: value for key, value in asdict(profile).items() if key in MADE_BY}
        other = {key: stored.get(key) for key, value in asked.items() if stored.get(key) != value}
        if other:
            raise StaleTableError(
                f"'{self.path}' was measured with {other}, the device profile says "
                f"{ {key: asked[key] for key in other} }; "
                "give the profile another name or move the table away"
            )
