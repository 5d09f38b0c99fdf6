"""Measured times of models by name on one device, kept in a CSV file: a row a session, as a profile keeps subnets.

What is measured already stays, so a killed measurement goes on. A JSON file beside it says what was measured where; on
another machine or device profile the file is refused.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from ofa_kit import storage
from ofa_kit.errors import BackendError, StaleTableError, TableError
from ofa_kit.graphs.reference import reference_model
from ofa_kit.latency.backends.backend import Backend
from ofa_kit.latency.board.runner.machine import fingerprint
from ofa_kit.latency.device import MADE_BY
from ofa_kit.latency.protocol import (
    EXTRA_SESSIONS,
    TIMES,
    Measurement,
    load_average,
    of_sessions,
    settled,
    steady,
)
from ofa_kit.latency.side_by_side import REFERENCE_TOLERANCE, time_side_by_side
from ofa_kit.progress import Reporter, Silent

COLUMNS = ("name", *TIMES, "cv", "runs", "converged", "reference_ms", "load", "measured_at")
CHUNK = 12
"""Models timed interleaved in one session; a kill loses at most one unfinished chunk."""


@dataclass
class Times:
    """What all sessions said of models, by name."""

    path: Path
    backend: Backend
    sessions: dict[str, list[Measurement]] = field(default_factory=dict)
    usual_reference_ms: float = 0.0
    """The reference network's time in the first session."""

    @classmethod
    def open(cls, path: Path, backend: Backend) -> "Times":
        """Read or begin a file; a StaleTableError when it was measured elsewhere or with another device profile."""
        made_by = {key: value for key, value in asdict(backend.profile).items() if key in MADE_BY}
        facts = {"device": made_by, "processor": fingerprint()["processor"], "gpu": dict(backend.facts)}
        beside = path.with_suffix(".json")
        if not beside.exists():
            rest = {"machine": fingerprint(), "versions": dict(backend.versions)}
            rest |= {"protocol": asdict(backend.profile.protocol)}
            storage.write_text(beside, json.dumps({**facts, **rest}, indent=2) + "\n")
        try:
            stored = json.loads(beside.read_text(encoding="utf-8"))
        except ValueError as error:
            raise TableError(f"'{beside}' is damaged; move it and '{path.name}' away and measure again") from error
        other = [key for key, value in facts.items() if stored.get(key) != value]
        if other:
            raise StaleTableError(
                f"'{path}' was measured with another {', '.join(other)} than now; move it and '{beside.name}' away"
            )
        found = cls(path, backend)
        for row in storage.read_rows(path, COLUMNS):
            found._take(row)
        return found

    def measure(self, models: Mapping[str, Callable[[], bytes]], reporter: Reporter | None = None) -> None:
        """Time what has not settled; a BackendError names a model that the runtime refuses.

        `models` make serialized ONNX models: time does not depend on what their weights are.
        """
        protocol = self.backend.profile.protocol
        with (reporter or Silent()).task(f"timing on {self.backend.profile.name}", len(models)) as advance:
            for session in range(protocol.sessions + EXTRA_SESSIONS):
                missing = [name for name in models if self._lacks(name, session)]
                order = np.random.default_rng(session).permutation(len(missing))
                for start in range(0, len(missing), CHUNK):
                    chunk = [missing[place] for place in order[start : start + CHUNK]]
                    self._session({name: models[name]() for name in chunk})
                    done = len(models) - len(missing) + start + len(chunk)
                    advance(done, f"session {session + 1}")

    def of(self, name: str) -> Measurement:
        """Return what the sessions of a model say together."""
        return of_sessions(self.sessions[name], self.backend.profile.protocol.tolerance)

    def _lacks(self, name: str, session: int) -> bool:
        done = self.sessions.get(name, [])
        return len(done) <= session and not settled(done, self.backend.profile.protocol)

    def _session(self, models: Mapping[str, bytes]) -> None:
        seed = sum(map(len, self.sessions.values()))
        reference = reference_model(self.backend.profile.batch)
        found, failed, reference_ms = time_side_by_side(self.backend, models, reference, seed=seed)
        for name, error in failed.items():
            raise BackendError(f"device '{self.backend.profile.name}' cannot run '{name}': {error}")
        found = steady(found, reference_ms, self.usual_reference_ms or reference_ms, REFERENCE_TOLERANCE)
        common = {"reference_ms": f"{reference_ms:.6f}", "load": f"{load_average():.2f}"}
        common |= {"measured_at": datetime.now(UTC).isoformat(timespec="seconds")}
        rows = [{"name": name, **value.to_row(), **common} for name, value in found.items()]
        storage.append_rows(self.path, COLUMNS, rows)
        for row in rows:
            self._take({key: str(value) for key, value in row.items()})

    def _take(self, row: Mapping[str, str]) -> None:
        try:
            self.sessions.setdefault(row["name"], []).append(Measurement.from_row(row))
            self.usual_reference_ms = self.usual_reference_ms or float(row["reference_ms"])
        except ValueError as error:
            raise TableError(f"'{self.path}' has a damaged row {row['name']}: {error}; delete that line") from error
