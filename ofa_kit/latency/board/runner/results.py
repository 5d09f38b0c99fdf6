"""What was measured: results.csv, which grows by complete lines only, and results.json, which says where and how."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from ...protocol import Measurement, TimingProtocol, blocks_settled, settled
from .kit import RunnerError

ROWS, FACTS = "results.csv", "results.json"


class Results:
    """The rows that are there, and room for more."""

    def __init__(
        self, folder: Path, columns: Sequence[str], facts: Mapping[str, Any], protocol: TimingProtocol
    ) -> None:
        """Open or begin the results in `folder`; a RunnerError when others work on them or they are another kit's."""
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(folder)
        self._rows, self._facts, self._columns = folder / ROWS, folder / FACTS, list(columns)
        self._protocol = protocol
        self._refused: set[str] = set()
        self._sessions: dict[str, list[Measurement]] = {}
        self._block_sessions: dict[str, list[float]] = {}
        if self._facts.exists():
            self.facts = _read_facts(self._facts)
            self._refuse_other(facts)
        elif self._rows.exists():
            raise RunnerError(f"'{self._rows}' has no {FACTS} beside it; move it away or give another --results FOLDER")
        else:
            self.facts = dict(facts)
            _replace(self._facts, self.facts)
        for number, row in enumerate(_read_rows(self._rows, self._columns), start=2):
            try:
                self._take(row)
            except ValueError as error:
                raise RunnerError(
                    f"'{self._rows}' line {number} is damaged ({error}); delete that line and run again"
                ) from error

    @property
    def sessions(self) -> int:
        """How many sessions of subnets there are."""
        return sum(map(len, self._sessions.values()))

    def lacks_block(self, key: str, session: int) -> bool:
        """Return whether a session (0, 1, ...) of a block is still to be measured."""
        return key not in self._refused and len(self._block_sessions.get(key, [])) <= session

    def blocks_settled(self, keys: Iterable[str]) -> bool:
        """Return whether the blocks of one graph need no further session."""
        measured = [self._block_sessions.get(key, []) for key in keys if key not in self._refused]
        return blocks_settled(measured, self._protocol)

    def lacks_subnet(self, key: str, session: int) -> bool:
        """Return whether a session (0, 1, ...) of a subnet is still to be measured."""
        found = self._sessions.get(key, [])
        return key not in self._refused and len(found) <= session and not settled(found, self._protocol)

    def append(self, rows: Iterable[Mapping[str, object]]) -> None:
        """Write rows as complete lines and force them to disk."""
        rows = list(rows)
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=self._columns, lineterminator="\n")
        if not self._rows.exists() or self._rows.stat().st_size == 0:
            writer.writeheader()
        writer.writerows(rows)
        with self._rows.open("ab") as file:
            file.write(text.getvalue().encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
        for row in rows:
            self._take({column: str(row.get(column, "")) for column in self._columns})

    def reference_ms(self, measured_ms: float) -> float:
        """Return the reference network's time of the first session; the first call stores it."""
        if "reference_ms" not in self.facts:
            self.facts["reference_ms"] = measured_ms
            _replace(self._facts, self.facts)
        return float(self.facts["reference_ms"])

    def _take(self, row: Mapping[str, str]) -> None:
        if row["error"]:
            self._refused.add(row["key"])
        elif row["kind"] == "block":
            self._block_sessions.setdefault(row["key"], []).append(float(row["latency_ms"]))
        else:
            self._sessions.setdefault(row["key"], []).append(Measurement.from_row(row))

    def _refuse_other(self, facts: Mapping[str, Any]) -> None:
        try:
            stored = _identity(self.facts)
        except (KeyError, TypeError) as error:
            raise RunnerError(f"'{self._facts}' is damaged; give another --results FOLDER") from error
        for name, value in _identity(facts).items():
            if stored[name] != value:
                raise RunnerError(
                    f"'{self._facts}' is of {name} {stored[name]}, this is {name} {value}; "
                    "give another --results FOLDER"
                )


def _identity(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return what must be the same in all sessions of one table."""
    return {
        "kit": facts["kit"],
        "processor": facts["machine"]["processor"],
        "onnxruntime": facts["versions"]["onnxruntime"],
    }


def _locked(folder: Path) -> IO[bytes]:
    """Return an open file that no other runner can hold; the system lets go of it when this process ends."""
    lock = (folder / "lock").open("wb")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise RunnerError(f"another runner is at work in '{folder}'; wait for its end") from error
    return lock


def _read_facts(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise RunnerError(f"'{path}' is damaged; give another --results FOLDER") from error


def _read_rows(path: Path, columns: list[str]) -> list[dict[str, str]]:
    """Return the complete rows; what a killed runner left after the last line feed is cut off."""
    if not path.exists():
        return []
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        os.truncate(str(path), end)
    reader = csv.DictReader(io.StringIO(content[:end].decode("utf-8", errors="replace")))
    rows = list(reader)
    if end and list(reader.fieldnames or []) != columns:
        raise RunnerError(f"'{path}' has other columns than this kit's; give another --results FOLDER")
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise RunnerError(f"'{path}' line {number} is damaged; delete that line and run again")
    return rows


def _replace(path: Path, facts: Mapping[str, Any]) -> None:
    """Replace a JSON file in one step."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps(facts, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
