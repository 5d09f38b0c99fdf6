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

from .kit import RunnerError

ROWS, FACTS = "results.csv", "results.json"
ATTEMPTS = 2
"""A subnet whose first measurement had not converged is measured once more."""


class Results:
    """The rows that are there, and room for more."""

    def __init__(self, folder: Path, columns: Sequence[str], facts: Mapping[str, Any]) -> None:
        """Open or begin the results in `folder`; a RunnerError when others work on them or they are another kit's."""
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(folder)
        self._rows, self._facts, self._columns = folder / ROWS, folder / FACTS, list(columns)
        self._settled: dict[tuple[str, str], list[bool]] = {}
        if self._facts.exists():
            self.facts = _read_facts(self._facts)
            self._refuse_other(facts)
        elif self._rows.exists():
            raise RunnerError(f"'{self._rows}' has no {FACTS} beside it; move it away or give another --results FOLDER")
        else:
            self.facts = dict(facts)
            _replace(self._facts, self.facts)
        for row in _read_rows(self._rows, self._columns):
            self._take(row)

    def count(self, kind: str, key: str) -> int:
        """Return how many rows there are for a block or subnet."""
        return len(self._settled.get((kind, key), []))

    def lacks(self, kind: str, key: str) -> bool:
        """Return whether a block or subnet is still to be measured."""
        return self.count(kind, key) < ATTEMPTS and not any(self._settled.get((kind, key), []))

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
        settled = row["kind"] == "block" or bool(row["error"]) or row["converged"] == "True"
        self._settled.setdefault((row["kind"], row["key"]), []).append(settled)

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
