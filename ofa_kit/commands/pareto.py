"""pareto: the front of top-1 against latency of a run on a device, predicted and measured, beside what else one has."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ofa_kit import storage
from ofa_kit.commands.pareto_measure import ChosenTable, measure_front, places_on, spread
from ofa_kit.commands.pareto_page import chart, page_of
from ofa_kit.commands.pareto_points import (
    CHOSEN,
    FRONT,
    LARGEST,
    MACS_FRONT,
    OTHER,
    RANDOM,
    ROLES,
    SMALLEST,
    measured_archs,
    predicted,
    searched,
    spread_at_random,
    with_measured,
    without_own_rows,
)
from ofa_kit.commands.pareto_summary import summary
from ofa_kit.commands.profile import TABLES
from ofa_kit.commands.report_drawing import SURFACE, require_matplotlib
from ofa_kit.commands.report_findings import Findings
from ofa_kit.errors import OfaKitError, TableError
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.predictors.accuracy import MINIMUM
from ofa_kit.progress import Reporter, Silent
from ofa_kit.search.pareto import Pareto
from ofa_kit.training.run import Run

if TYPE_CHECKING:
    import pandas as pd

DPI = 160
"""Of the PNG, whose inches are those of a page."""


@dataclass(frozen=True)
class ParetoFront:
    """The front of a run on a device, and what it is compared with."""

    run: Run
    device: DeviceProfile
    frame: "pd.DataFrame"
    """One row a subnet and role (pareto_points.py), in the order of the roles, those of one by latency."""
    whole: "pd.DataFrame"
    """All of the predicted front; `frame` has as many points of it as were asked for."""
    summary: Mapping[str, Any]
    """What the rows say, in numbers whose names end in predicted or measured."""

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows as JSON has them: None where there is no value."""
        rows: list[dict[str, Any]] = json.loads(self.frame.to_json(orient="records", double_precision=15))
        return rows

    def write(self, folder: Path) -> dict[str, str]:
        """Write pareto-DEVICE.csv, .png and .html in one step each, and return where they are."""
        paths = {kind: folder / f"pareto-{self.device.name}.{kind}" for kind in ("csv", "png", "html")}
        storage.write_text(paths["csv"], self.frame.to_csv(index=False))
        drawn = chart(self.run, self.device, self.frame, self.whole)
        with storage.replacing(paths["png"]) as temporary:
            drawn.figure.savefig(temporary, format="png", dpi=DPI, facecolor=SURFACE)
        storage.write_text(paths["html"], page_of(self.run, self.device, self.frame, self.summary, drawn.svg))
        return {kind: str(path) for kind, path in paths.items()}


def pareto(
    run: Run,
    device: DeviceProfile,
    *,
    points: int = 20,
    measure: int = 0,
    seed: int = 0,
    search: Pareto | None = None,
    tables: Path = TABLES,
    reporter: Reporter | None = None,
) -> ParetoFront:
    """Return up to `points` of the predicted front, with `measure` of its subnets recalibrated, validated and timed.

    What was measured for the front before counts, so a command that was broken off measures only the rest.
    """
    if points < 2:
        raise OfaKitError(f"--points must be at least 2, the two ends of the front, found {points}")
    if measure < 0:
        raise OfaKitError(f"--measure must be 0 or more, found {measure}; 0 draws what was measured before")
    require_matplotlib()
    search, found = search or Pareto(), _findings(run, device, tables, reporter or Silent())
    if measure:
        measure_front(found, measure, search, seed)
        found = _findings(run, device, tables, found.reporter)  # whose predictors know the new rows
    whole, by_macs = searched(found, search, seed)
    frame = _frame(found, _thinned(whole, points, "latency_ms_predicted"), _thinned(by_macs, points, "macs_m"))
    said = summary(frame, whole, with_measured(by_macs, found), _half_measured(found))
    return ParetoFront(run, device, frame, whole, {"seed": seed, **said})


def _findings(run: Run, device: DeviceProfile, tables: Path, reporter: Reporter) -> Findings:
    """Open what was measured; a TableError says which command brings what is missing."""
    found = Findings(run, device, tables, reporter)
    rows = len(found.accuracy.rows)
    if rows < MINIMUM:
        raise TableError(
            f"the front needs the top-1 of at least {MINIMUM} subnets of run '{run.name}' with its present weights, "
            f"found {rows}; run `ofa-kit measure-accuracy --run {run.folder}`"
        )
    if not (tables / device.table_folder / f"{run.space.name}.json").exists():
        raise TableError(
            f"no latency table of {device.name} for '{run.space.name}' in '{tables}'; run "
            f"`ofa-kit profile --device {device.name} --run {run.folder}` first"
        )
    return found


def _thinned(front: "pd.DataFrame", points: int, cost: str) -> "pd.DataFrame":
    """Return both ends of a front and points spread between them."""
    if len(front) <= points:
        return front
    places = places_on(front, front[cost].to_numpy(), cost)
    inner = spread(places[1:-1], points - 2, places[[0, -1]])
    return front.iloc[sorted([0, len(front) - 1, *(place + 1 for place in inner)])]


def _frame(found: Findings, front: "pd.DataFrame", by_macs: "pd.DataFrame") -> "pd.DataFrame":
    """Return all rows, each with its role."""
    import pandas as pd

    chosen = ChosenTable.open(found)
    parts = [front.assign(role=FRONT), by_macs.assign(role=MACS_FRONT)]
    if chosen.archs:
        parts.append(chosen.rows_of(found).assign(role=CHOSEN))
    ends = {found.space.smallest(): SMALLEST, found.space.largest(): LARGEST}
    others = [arch for key, arch in measured_archs(found).items() if key not in chosen.archs and arch not in ends]
    at_random = spread_at_random(found, max(len(found.accuracy.rows), len(found.latencies)))
    roles = list(ends.values()) + [RANDOM if arch.key in at_random else OTHER for arch in others]
    parts.append(without_own_rows(predicted(found, [*ends, *others]), found).assign(role=roles))
    frame = with_measured(pd.concat(parts, ignore_index=True), found)
    order = {role: place for place, role in enumerate(ROLES)}
    by_role = frame.assign(place=frame["role"].map(order)).sort_values(["place", "latency_ms_predicted"])
    columns = ["role", *(name for name in frame.columns if name != "role")]
    return by_role[columns].reset_index(drop=True)


def _half_measured(found: Findings) -> dict[str, int]:
    """Return how many subnets have only one of both values in the tables."""
    top1, latency = found.accuracy.rows.keys(), found.latencies.keys()
    return {"only_top1": len(top1 - latency), "only_latency": len(latency - top1)}
