"""table: [D, W, K, R] -> [accuracy, latency] of one run on one device, measured beside predicted."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ofa_kit import storage
from ofa_kit.arch.config import ARCH_COLUMNS
from ofa_kit.arch.features import macs_of, params_of
from ofa_kit.commands.profile import TABLES, open_profiled
from ofa_kit.errors import TableError
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.latency.table import COSTS
from ofa_kit.predictors.accuracy import MINIMUM, AccuracyPredictor, Values
from ofa_kit.predictors.accuracy_table import AccuracyTable
from ofa_kit.training.run import Run

if TYPE_CHECKING:
    import pandas as pd


def joined_table(run: Run, device: DeviceProfile, *, tables: Path = TABLES) -> "pd.DataFrame":
    """Return one row for each subnet with a measured top-1 or latency, fastest first; predictions for all."""
    import pandas as pd

    _, weights_hash = run.load_supernet()
    accuracy = AccuracyTable.open(run.accuracy, weights_hash).rows
    profiled = open_profiled(device, run.space, tables)
    subnets = profiled.table.subnets
    archs = {arch.key: arch for arch, _ in [*accuracy.values(), *subnets.values()]}
    genomes = np.stack([run.space.encode(arch) for arch in archs.values()])
    frame = pd.DataFrame([{"key": key, **arch.to_row()} for key, arch in archs.items()])
    frame["macs_m"] = macs_of(run.space, genomes) / 1e6
    frame["params_m"] = params_of(run.space, genomes) / 1e6
    frame["top1_measured"] = [accuracy[key][1] if key in accuracy else np.nan for key in archs]
    frame["top1_predicted"] = np.nan
    if len(accuracy) >= MINIMUM:
        frame["top1_predicted"] = AccuracyPredictor.fit(run.space, list(accuracy.values())).predict_top1(genomes)
    frame["latency_ms_measured"] = [subnets[key][1].latency_ms if key in subnets else np.nan for key in archs]
    frame["latency_ms_predicted"], frame["latency_ms_error"] = profiled.predictor.predict(genomes)
    for name in COSTS:
        frame[f"{name}_measured"] = [getattr(profiled.table.costs.get(key), name, None) for key in archs]
    frame["pareto"] = _pareto(frame["latency_ms_predicted"].to_numpy(), frame["top1_measured"].to_numpy())
    return frame.sort_values("latency_ms_predicted", ignore_index=True)


def write_table(frame: "pd.DataFrame", path: Path) -> None:
    """Write the table as CSV in one step."""
    if path.suffix != ".csv":
        raise TableError(f"--out takes a .csv file, found '{path}'")
    storage.write_text(path, frame.to_csv(index=False, float_format="%.6g"))


def screen_columns() -> list[str]:
    """Return the columns that fit a terminal."""
    hidden = {"widths", "params_m"}
    numbers = ["macs_m", "top1_measured", "top1_predicted", "latency_ms_measured", "latency_ms_predicted", "pareto"]
    return [c for c in ("key", *ARCH_COLUMNS) if c not in hidden] + numbers


def _pareto(latency: Values, top1: Values) -> list[bool]:
    """Return which rows no other row beats in both; rows without a measured top-1 never count."""
    best, front = -np.inf, np.zeros(len(latency), dtype=bool)
    for index in np.lexsort((-np.nan_to_num(top1, nan=-1.0), latency)):
        if not np.isnan(top1[index]) and top1[index] > best:
            best, front[index] = top1[index], True
    return [bool(x) for x in front]
