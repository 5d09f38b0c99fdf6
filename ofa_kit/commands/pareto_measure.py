"""Subnets of the predicted front that are measured anew: chosen once, predicted before, recalibrated, timed.

What was chosen stands in the run folder with its predictions of that moment, so a broken-off command goes on with the
same subnets, and what is measured later says how far such predictions were off.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ofa_kit import storage
from ofa_kit.arch.config import ARCH_COLUMNS, ArchConfig
from ofa_kit.commands.measure_accuracy import measure_accuracy, now, require_data
from ofa_kit.commands.pareto_points import BEFORE, PREDICTED, measured_archs, predicted, searched
from ofa_kit.commands.profile import measure_session, models_of, shuffled_chunks
from ofa_kit.commands.report_findings import Findings
from ofa_kit.commands.report_held_out import Values
from ofa_kit.errors import TableError
from ofa_kit.latency.backends import backend_for
from ofa_kit.latency.protocol import EXTRA_SESSIONS
from ofa_kit.predictors.accuracy_table import AccuracyTable
from ofa_kit.search.active import Measured
from ofa_kit.search.pareto import Pareto

if TYPE_CHECKING:
    import pandas as pd

LATENCY = "latency_ms_predicted"
COLUMNS = ("key", *ARCH_COLUMNS, *PREDICTED, "weights_hash", "chosen_at")


@dataclass
class ChosenTable:
    """Subnets of one run that were chosen on the front of one device, in their order; it only grows."""

    path: Path
    weights_hash: str
    archs: dict[str, ArchConfig] = field(default_factory=dict)
    predictions: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """The values of `PREDICTED` from before the subnet was measured, by key."""

    @classmethod
    def open(cls, found: Findings) -> "ChosenTable":
        """Read what was chosen for these weights on this device; rows of other weights stay in the file, unused."""
        path = found.run.folder / f"pareto-{found.device.name}-chosen.csv"
        table = cls(path, found.weights_hash)
        for row in storage.read_rows(path, COLUMNS):
            if row["weights_hash"] == table.weights_hash:
                table._take(row)
        return table

    def add(self, front: "pd.DataFrame") -> None:
        """Append rows of the predicted front."""
        facts = {"weights_hash": self.weights_hash, "chosen_at": now()}
        rows = [{name: str(row[name]) for name in COLUMNS[:-2]} | facts for _, row in front.iterrows()]
        storage.append_rows(self.path, COLUMNS, rows)
        for row in rows:
            self._take(row)

    def rows_of(self, found: Findings) -> "pd.DataFrame":
        """Return one row a chosen subnet, with what was predicted before."""
        frame = predicted(found, self.archs.values())
        frame[list(PREDICTED)] = [self.predictions[key] for key in frame["key"]]
        return frame.assign(predicted_by=BEFORE)

    def _take(self, row: Mapping[str, str]) -> None:
        try:
            self.predictions[row["key"]] = tuple(float(row[name]) for name in PREDICTED)
        except ValueError as error:
            raise TableError(f"'{self.path}' has a damaged row {row['key']}: {error}; delete that line") from error
        self.archs[row["key"]] = ArchConfig.from_row(row)


@dataclass(frozen=True)
class Listed:
    """The choice of measure-accuracy where it is made already."""

    archs: Sequence[ArchConfig]

    def next(self, measured: Measured, count: int) -> list[ArchConfig]:
        known = {arch.key for arch, _ in measured}
        return [arch for arch in self.archs if arch.key not in known][:count]


def measure_front(found: Findings, count: int, search: Pareto, seed: int) -> ChosenTable:
    """Measure until `count` subnets of the predicted front were chosen, validated and timed; none is measured twice."""
    found.profiled.table.refuse_elsewhere("subnets of the front")
    require_data(found.run)
    chosen = ChosenTable.open(found)
    missing = count - len(chosen.archs)
    if missing > 0:
        front, _ = searched(found, search, seed)
        chosen.add(front.iloc[_new_ones(front, missing, chosen, found)])
    wanted = list(chosen.archs.values())[:count]
    if len(wanted) < count:
        found.reporter.say(f"the predicted front has only {len(wanted)} subnets that are not measured yet")
    _validate(found, wanted)
    _time(found, wanted)
    return chosen


def spread(places: Values, count: int, taken: Values) -> list[int]:
    """Return the indices of up to `count` places (N,), each the farthest from those before it and from `taken`.

    Where nothing is taken the one in the middle is the first.
    """
    left, chosen = np.ones(len(places), dtype=bool), []
    distance = np.full(len(places), np.inf)
    for place in taken:
        distance = np.minimum(distance, np.abs(places - place))
    for _ in range(min(count, len(places))):
        middle = -np.abs(places - (places.min() + places.max()) / 2)
        worth = distance if np.isfinite(distance).any() else middle
        best = int(np.argmax(np.where(left, worth, -np.inf)))
        chosen.append(best)
        left[best] = False
        distance = np.minimum(distance, np.abs(places - places[best]))
    return chosen


def places_on(front: "pd.DataFrame", costs: Values, cost: str = LATENCY) -> Values:
    """Return where costs (N,) are on the front: 0 at its cheap end, 1 at its dear end, by the way along it."""
    known, top1 = np.log(front[cost].to_numpy()), front["top1_predicted"].to_numpy()
    spans = [max(float(np.ptp(values)), 1e-12) for values in (known, top1)]
    steps = np.hypot(np.diff(known) / spans[0], np.diff(top1) / spans[1])
    way = np.concatenate([[0.0], np.cumsum(steps)])
    return np.asarray(np.interp(np.log(costs), known, way / max(way[-1], 1e-12)))


def _new_ones(front: "pd.DataFrame", count: int, chosen: ChosenTable, found: Findings) -> list[int]:
    """Return rows of the front that are neither chosen nor measured, spread between those that are."""
    known = measured_archs(found).keys() | found.profiled.table.failed.keys()
    is_new = ~front["key"].isin(known | chosen.archs.keys()).to_numpy()
    places = places_on(front, front[LATENCY].to_numpy())
    before = places_on(front, np.array([values[2] for values in chosen.predictions.values()]))
    new = np.flatnonzero(is_new)
    taken = np.concatenate([places[~is_new], before])
    return sorted(int(new[place]) for place in spread(places[new], count, taken))


def _validate(found: Findings, archs: Sequence[ArchConfig]) -> None:
    """Recalibrate subnets and measure their top-1 on all held-out validation images."""
    table = AccuracyTable.open(found.run.accuracy, found.weights_hash)
    known = table.measured_on(0)
    missing = len(Listed(archs).next(known, len(archs)))
    if missing:
        measure_accuracy(found.run, len(known) + missing, choice=Listed(archs), reporter=found.reporter)


def _time(found: Findings, archs: Sequence[ArchConfig]) -> None:
    """Time subnets side by side, in sessions apart in time."""
    table = found.profiled.table
    sessions = range(table.protocol.sessions + EXTRA_SESSIONS)
    if not any(table.lacks(arch, session) for arch in archs for session in sessions):
        return
    backend = backend_for(found.device)
    for session in sessions:
        missing = [arch for arch in archs if table.lacks(arch, session)]
        if not missing:
            continue
        with found.reporter.task(f"front, session {session + 1}", len(missing)) as advance:
            for start, chunk in shuffled_chunks(missing, seed=session):
                measure_session(table, backend, models_of(found.space, chunk, backend))
                advance(start + len(chunk), "")
