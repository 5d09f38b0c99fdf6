"""table: [D, W, K, R] -> [accuracy, latency] of one run on one device, measured beside predicted."""

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ofa_kit import storage
from ofa_kit.arch.features import macs_of, params_of
from ofa_kit.commands.profile import TABLES, Profiled, open_profiled
from ofa_kit.errors import OfaKitError, TableError, UnknownNameError
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.latency.table import COSTS
from ofa_kit.predictors.accuracy import MINIMUM, AccuracyPredictor, Values
from ofa_kit.predictors.accuracy_table import AccuracyTable
from ofa_kit.training.run import Run

if TYPE_CHECKING:
    import pandas as pd

OPERATORS: dict[str, Callable[[Any, float], Any]] = {
    "<=": operator.le, ">=": operator.ge, "==": operator.eq, "!=": operator.ne, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
COMPARISON = re.compile(rf"\s*(\w+)\s*({'|'.join(OPERATORS)})\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*")
MEASURED, PREDICTED = "measured", "predicted"
"""What puts a subnet on the Pareto front, as the column `pareto` says it; '' elsewhere."""


@dataclass(frozen=True)
class JoinedTable:
    """Subnets with a measured top-1 or latency, and what is known and predicted of each."""

    frame: "pd.DataFrame"
    cost: str
    """What the Pareto front weighs top-1 against: latency_ms, or macs_m where no latency is known."""
    missing: tuple[str, ...]
    """What the table lacks and which command brings it, one line each."""


def joined_table(run: Run, device: DeviceProfile, *, tables: Path = TABLES) -> JoinedTable:
    """Return one row a subnet, fastest first; half a table where only accuracy or only latency was measured.

    Predictions are those of predictors that learned from the measured rows; only `report` holds rows out.
    """
    import pandas as pd

    _, weights_hash = run.load_supernet()
    accuracy = AccuracyTable.open(run.accuracy, weights_hash)
    profiled = _profiled(run, device, tables)
    subnets = profiled.table.subnets if profiled else {}
    archs = {arch.key: arch for arch, _ in [*accuracy.rows.values(), *subnets.values()]}
    if not archs:
        raise TableError(
            f"nothing was measured yet; run `ofa-kit profile --device {device.name} --run {run.folder}` first"
        )
    genomes = np.stack([run.space.encode(arch) for arch in archs.values()])
    frame = pd.DataFrame([{"key": key, **arch.to_row()} for key, arch in archs.items()])
    frame["resolution"] = frame["resolution"].astype(int)
    frame["macs_m"] = macs_of(run.space, genomes) / 1e6
    frame["params_m"] = params_of(run.space, genomes) / 1e6
    _add_accuracy(frame, run, accuracy, genomes)
    cost = "latency_ms" if profiled else "macs_m"
    if profiled:
        _add_latency(frame, profiled, genomes)
    _mark_front(frame, cost)
    order = "latency_ms_predicted" if profiled else "macs_m"
    return JoinedTable(
        frame.sort_values(order, ignore_index=True), cost, tuple(_missing(run, device, accuracy, profiled))
    )


def select(
    frame: "pd.DataFrame",
    *,
    where: Sequence[str] = (),
    sort: str | None = None,
    pareto: bool = False,
    limit: int | None = None,
) -> "pd.DataFrame":
    """Return the rows that meet every `COLUMN OP NUMBER`, in the order of a column ('-COLUMN': largest first).

    The front is that of the whole table, whatever the comparisons leave. Rows without a value meet no comparison and
    come last.
    """
    for text in where:
        frame = frame[_meets(frame, text)]
    if pareto:
        frame = frame[frame["pareto"] != ""]
    if sort is not None:
        column = sort.removeprefix("-")
        if column not in frame.columns:
            raise UnknownNameError("column", column, frame.columns)
        frame = frame.sort_values(column, ascending=not sort.startswith("-"), kind="stable")
    if limit is not None and limit < 1:
        raise OfaKitError(f"--limit must be at least 1, found {limit}")
    return frame.head(len(frame) if limit is None else limit).reset_index(drop=True)


def refuse_format(path: Path) -> None:
    """Raise an OfaKitError when a table cannot be written as `path` asks."""
    if path.suffix not in (".csv", ".parquet"):
        raise TableError(f"--out takes a .csv or .parquet file, found '{path}'")
    if path.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise OfaKitError(f"'{path}' needs the package pyarrow; install `ofa-kit[parquet]` or write a .csv file")


def write_table(frame: "pd.DataFrame", path: Path) -> None:
    """Write the table as CSV or Parquet in one step."""
    refuse_format(path)
    if path.suffix == ".csv":
        storage.write_text(path, frame.to_csv(index=False, float_format="%.6g"))
        return
    with storage.replacing(path) as temporary:
        frame.to_parquet(temporary, index=False, engine="pyarrow")


def screen_columns(frame: "pd.DataFrame") -> list[str]:
    """Return the columns that fit a terminal and are not empty."""
    hidden = {"widths", "params_m", *(f"{name}_measured" for name in COSTS)}
    shown = [column for column in frame.columns if column not in hidden]
    empty = {column for column in ("stem", "head") if (frame[column] == "").all()}
    return [column for column in shown if column not in empty]


def _profiled(run: Run, device: DeviceProfile, tables: Path) -> Profiled | None:
    """Open the device's latency table; None where there is none, an error where it is damaged or of another space."""
    path = tables / device.table_folder / f"{run.space.name}.json"
    return open_profiled(device, run.space, tables) if path.exists() else None


def _add_accuracy(frame: "pd.DataFrame", run: Run, accuracy: AccuracyTable, genomes: Any) -> None:
    rows, measured = accuracy.rows, accuracy.measured
    frame["top1_measured"] = [rows[key][1] if key in rows else np.nan for key in frame["key"]]
    frame["top1_standard_error"] = [measured[key].standard_error if key in rows else np.nan for key in frame["key"]]
    frame["top1_predicted"], frame["top1_error"] = np.nan, np.nan
    if len(rows) >= MINIMUM:
        errors = [row.standard_error for row in measured.values()]
        predictor = AccuracyPredictor.fit(run.space, list(rows.values()), standard_errors=errors)
        frame["top1_predicted"], frame["top1_error"] = predictor.predict(genomes)


def _add_latency(frame: "pd.DataFrame", profiled: Profiled, genomes: Any) -> None:
    subnets, costs = profiled.table.subnets, profiled.table.costs
    measured = [subnets[key][1].latency_ms if key in subnets else np.nan for key in frame["key"]]
    frame["latency_ms_measured"] = measured
    frame["latency_ms_predicted"], frame["latency_ms_error"] = profiled.predictor.predict(genomes)
    for name in COSTS:
        values = [getattr(costs.get(key), name, None) for key in frame["key"]]
        frame[f"{name}_measured"] = np.array(values, dtype=float)


def _mark_front(frame: "pd.DataFrame", cost: str) -> None:
    """Set `pareto`: measured rows are weighed by measured values alone, all others by predicted ones alone."""
    both = cost == "latency_ms"
    costs = {kind: frame[f"{cost}_{kind}" if both else cost].to_numpy() for kind in (MEASURED, PREDICTED)}
    fronts = {kind: front(costs[kind], frame[f"top1_{kind}"].to_numpy()) for kind in costs}
    known = np.isfinite(costs[MEASURED]) & np.isfinite(frame["top1_measured"].to_numpy())
    frame["pareto"] = np.select([fronts[MEASURED], fronts[PREDICTED] & ~known], [MEASURED, PREDICTED], "")


def front(cost: Values, top1: Values) -> Any:
    """Return which rows (N,) no other row beats in both; rows that lack a value never count."""
    best, chosen = -np.inf, np.zeros(len(cost), dtype=bool)
    for index in np.lexsort((-top1, cost)):
        if np.isfinite(cost[index]) and top1[index] > best:
            best, chosen[index] = top1[index], True
    return chosen


def _meets(frame: "pd.DataFrame", text: str) -> Any:
    """Return which rows (N,) meet `COLUMN OP NUMBER`."""
    found = COMPARISON.fullmatch(text)
    if found is None:
        raise OfaKitError(
            f"--where takes COLUMN OP NUMBER such as 'macs_m<20', OP one of {', '.join(OPERATORS)}; found '{text}'"
        )
    column, symbol, number = found.groups()
    numbers = frame.select_dtypes("number").columns
    if column not in numbers:
        raise UnknownNameError("column of numbers", column, numbers)
    return OPERATORS[symbol](frame[column], float(number)) & frame[column].notna()


def _missing(run: Run, device: DeviceProfile, accuracy: AccuracyTable, profiled: Profiled | None) -> list[str]:
    lines = []
    if len(accuracy.rows) < MINIMUM:
        lines.append(
            f"top-1 of {len(accuracy.rows)} subnets measured, {MINIMUM} needed to predict the others: run "
            f"`ofa-kit measure-accuracy --run {run.folder}`"
        )
    if profiled is None:
        lines.append(
            f"no latency table of {device.name} for '{run.space.name}', so the front is top-1 against MACs: run "
            f"`ofa-kit profile --device {device.name} --run {run.folder}`"
        )
    return lines
