"""A board's results brought back into the latency table of the device profile and space that its kit was made for."""

import csv
import json
import math
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

from ofa_kit import storage
from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.features import distinct_layers
from ofa_kit.arch.presets import PRESETS
from ofa_kit.arch.space import SearchSpace
from ofa_kit.arch.space_file import space_from_dict
from ofa_kit.config import parse
from ofa_kit.errors import OfaKitError, StaleTableError, TableError
from ofa_kit.latency.board.runner.kit import FORMAT
from ofa_kit.latency.board.runner.results import FACTS, ROWS
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.latency.protocol import Measurement
from ofa_kit.latency.table import COLUMNS, LatencyTable

Row = dict[str, str]
Value = TypeVar("Value")


def import_results(results: Path, tables: Path) -> LatencyTable:
    """Add the rows of a board's results (folder, zip or CSV file) to their table; what is there stays as it was.

    A TableError says what is damaged or foreign; nothing is written then.
    """
    with _unpacked(results) as folder:
        facts = _facts(folder / FACTS, str(results))
        found = _checked(_rows(folder / ROWS, str(results)), facts.space, str(results))
    if not found.blocks and not found.subnets:
        raise TableError(f"'{results}' has no rows yet; run the kit on the board first")
    table = LatencyTable.create(tables, facts.device, facts.space, facts.provenance)
    _refuse_other(table, facts, str(results))
    if facts.reference_ms is not None:
        table.reference_ms(facts.reference_ms)
    _add(table, found)
    return table


@dataclass(frozen=True)
class _Facts:
    """What results.json says."""

    device: DeviceProfile
    space: SearchSpace
    provenance: dict[str, Any]
    reference_ms: float | None


@dataclass(frozen=True)
class _Found:
    """Rows that were read without a fault."""

    blocks: list[Row]
    subnets: list[tuple[ArchConfig, Measurement | None, Row]]
    """None where the board's runtime refused the model."""


@contextmanager
def _unpacked(results: Path) -> Iterator[Path]:
    """Give the folder that holds both files of the results."""
    if results.is_dir():
        yield results
    elif results.suffix == ".csv":
        if results.name != ROWS:
            raise TableError(f"'{results}' is not named {ROWS}; give the results folder that the kit's runner wrote")
        yield results.parent
    else:
        with tempfile.TemporaryDirectory() as folder:
            try:
                with zipfile.ZipFile(results) as archive:
                    for name in archive.namelist():
                        if Path(name).name in (ROWS, FACTS):
                            (Path(folder) / Path(name).name).write_bytes(archive.read(name))
            except (OSError, zipfile.BadZipFile) as error:
                raise TableError(f"'{results}' is no folder, zip or CSV file of results") from error
            yield Path(folder)


def _facts(path: Path, source: str) -> _Facts:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if facts["format"] != FORMAT:
            raise TableError(f"'{source}' has format {facts['format']}, this ofa-kit reads {FORMAT}; make a new kit")
        device = parse(DeviceProfile, facts["device"], FACTS)
        space = space_from_dict(facts["space"]["definition"], FACTS)
        _refuse_space(space, facts["space"]["fingerprint"], source)
        reference_ms = float(facts["reference_ms"]) if "reference_ms" in facts else None
        return _Facts(device, space, _provenance(facts), reference_ms)
    except TableError:
        raise
    except OSError as error:
        raise TableError(f"'{source}' has no {FACTS} beside {ROWS}; bring both files back from the board") from error
    except (ValueError, KeyError, TypeError, OfaKitError) as error:
        raise TableError(f"'{source}': {FACTS} is damaged ({error}); bring it back from the board again") from error


def _provenance(facts: Mapping[str, Any]) -> dict[str, Any]:
    plan = facts["plan"]
    return {
        "machine": dict(facts["machine"]),
        "versions": {**facts["versions"], "kit": facts["made_by"]},
        "protocol": facts["device"]["protocol"],
        "block_runs": plan["block_runs"],
        "begun_at": facts["begun_at"],
        "kit": facts["kit"],
        "measured_elsewhere": True,
    }


def _refuse_space(space: SearchSpace, fingerprint: str, source: str) -> None:
    """Raise a TableError for a space that changed on its way, or that this package knows as another one."""
    if space.fingerprint != fingerprint:
        raise TableError(f"'{source}': {FACTS} is damaged (its space is not {fingerprint}); bring it back again")
    known = PRESETS.get(space.name)
    if known is not None and known.fingerprint != fingerprint:
        raise StaleTableError(
            f"'{source}' was measured for space '{space.name}' ({fingerprint}), this ofa-kit's is "
            f"{known.fingerprint}; make a new kit and run it"
        )


def _rows(path: Path, source: str) -> list[Row]:
    if not path.exists():
        return []
    try:
        return storage.read_rows(path, COLUMNS)
    except (UnicodeDecodeError, csv.Error) as error:
        raise TableError(f"'{source}': {ROWS} is damaged ({error}); bring it back from the board again") from error


def _checked(rows: list[Row], space: SearchSpace, source: str) -> _Found:
    """Return the rows as values; a TableError names the first that is damaged or of another space."""
    known = {key for resolution in space.resolutions for key in distinct_layers(space, resolution)}
    found = _Found([], [])
    for number, row in enumerate(rows, start=2):
        try:
            float(row["load"])
            if row["kind"] == "block":
                _check_block(row, known)
                found.blocks.append(row)
            elif row["kind"] == "subnet":
                found.subnets.append((_arch(row, space), _measurement(row), row))
            else:
                raise ValueError(f"kind '{row['kind']}'")
        except (ValueError, TableError) as error:
            raise TableError(
                f"'{source}': {ROWS} line {number} is damaged or foreign ({error}); bring it back from the board again"
            ) from error
    return found


def _check_block(row: Row, known: set[str]) -> None:
    if row["key"] not in known:
        raise ValueError(f"no block '{row['key']}' in the space")
    if not row["error"]:
        if not 0 < float(row["latency_ms"]) < math.inf:
            raise ValueError(f"{row['latency_ms']} ms")
        int(row["runs"])


def _arch(row: Row, space: SearchSpace) -> ArchConfig:
    arch = ArchConfig.from_row(row)
    if arch.key != row["key"] or not space.contains(arch):
        raise ValueError(f"{row['key']} is not the key of a subnet of '{space.name}'")
    return arch


def _measurement(row: Row) -> Measurement | None:
    if row["error"]:
        return None
    return Measurement.from_row(row)


def _refuse_other(table: LatencyTable, facts: _Facts, source: str) -> None:
    """Raise a StaleTableError when the table there is of another machine or runtime."""
    for part, name in (("machine", "processor"), ("versions", "onnxruntime")):
        there = table.provenance.get(part, {}).get(name)
        here = facts.provenance[part].get(name)
        if there != here:
            raise StaleTableError(
                f"'{table.path}' is of {name} {there}, '{source}' of {name} {here}; "
                "give the device profile another name or use another folder: --tables NAME"
            )


def _add(table: LatencyTable, found: _Found) -> None:
    """Add what the table lacks; sessions that an earlier import brought are not added again."""
    known = {key: Counter(times) for key, times in table.block_sessions.items()}
    measured = [row for row in found.blocks if not row["error"]]
    new = [row for row in measured if not _taken(known, row["key"], float(row["latency_ms"]))]
    for (runs, load, measured_at), rows in groupby(new, lambda row: (row["runs"], row["load"], row["measured_at"])):
        times_ms = [(row["key"], float(row["latency_ms"])) for row in rows]
        table.add_blocks(times_ms, runs=int(runs), load=float(load), measured_at=measured_at)
    sessions = {key: Counter(values) for key, values in table.sessions.items()}
    for arch, value, row in found.subnets:
        load, measured_at = float(row["load"]), row["measured_at"]
        if value is None:
            if arch.key not in table.failed and arch.key not in table.subnets:
                table.add_failure(arch, row["error"], load=load, measured_at=measured_at)
        elif not _taken(sessions, arch.key, value):
            table.add_subnet(arch, value, load=load, measured_at=measured_at)


def _taken(known: Mapping[str, Counter[Value]], key: str, value: Value) -> bool:
    """Return whether a value is among the known ones, and take it away from them."""
    there = known.get(key, Counter())[value] > 0
    if there:
        known[key][value] -= 1
    return there
