"""The subnets that the front of a run on a device is made of and compared with: one row each, predicted and measured.

`role` says why a subnet is there. Values are rounded to what the files show, so all who compare them agree.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.features import macs_of, params_of
from ofa_kit.arch.selection import spread_subnets, stratified_subnets
from ofa_kit.commands.report_findings import Findings
from ofa_kit.commands.report_held_out import HeldOut, Indices, Predict, Values, held_out
from ofa_kit.errors import TableError
from ofa_kit.latency.protocol import Measurement
from ofa_kit.predictors.accuracy import MINIMUM, AccuracyPredictor
from ofa_kit.predictors.latency import REPEATS
from ofa_kit.search.budget import Budget, Objective
from ofa_kit.search.pareto import Pareto, fronts

if TYPE_CHECKING:
    import pandas as pd

FRONT, MACS_FRONT, CHOSEN = "front", "macs_front", "chosen"
"""On the predicted front; on the front of predicted top-1 against MACs; taken from the front to be measured."""
SMALLEST, LARGEST, RANDOM, OTHER = "smallest", "largest", "random", "other"
"""The ends of the space; measured subnets spread over it at random; and those measured for any other reason."""
ROLES = (FRONT, CHOSEN, SMALLEST, LARGEST, RANDOM, OTHER, MACS_FRONT)
"""In the order of the rows."""
PREDICTED = ("top1_predicted", "top1_predicted_error", "latency_ms_predicted", "latency_ms_predicted_error")
"""What is predicted in percent and milliseconds, and half of its 90 % interval."""
MEASURED = ("top1_measured", "top1_measured_standard_error", "latency_ms_measured", "latency_ms_measured_error")
"""What was measured; the error of a latency is by how much it repeats (`repeats_within_ms`)."""
FITTED, HELD_OUT, BEFORE = "a fit to all rows", "a fit without this row", "a fit before it was measured"
"""What made a prediction, as the column `predicted_by` says it."""
COSTS: tuple[Literal["latency", "macs"], ...] = ("latency", "macs")
"""What is searched for a front of top-1 against it."""
DIGITS = 6
"""Significant digits of every number."""


def searched(found: Findings, search: Pareto, seed: int) -> "tuple[pd.DataFrame, pd.DataFrame]":
    """Return the predicted front, fastest first, and the front of predicted top-1 against MACs, cheapest first.

    Every subnet that either search or the tables know of takes part in both.
    """
    objective = Objective(found.space, Budget(), found.predictor.predict_top1, found.profiled.predictor.predict_ms)
    archs: list[ArchConfig] = []
    with found.reporter.task("front", 2) as advance:
        for done, cost in enumerate(COSTS, start=1):
            candidates = replace(search, cost=cost).front(objective, np.random.default_rng(seed))
            archs += [one.arch for one in candidates]
            advance(done, f"by {cost}: {len(candidates)} subnets (predicted)")
    archs += [found.space.smallest(), found.space.largest(), *(arch for arch, _ in found.accuracy.rows.values())]
    archs += [arch for arch, _ in found.latencies.values()]
    frame = predicted(found, archs)
    frame = frame[np.isfinite(frame["latency_ms_predicted"])]  # an imported table may lack blocks
    if frame.empty:
        raise TableError(
            f"'{found.profiled.table.path}' tells the latency of no whole subnet of '{found.space.name}': it lacks "
            "blocks; import the missing resolutions or profile the device"
        )
    by_latency, by_macs = (
        frame[fronts(frame["top1_predicted"].to_numpy(), frame[cost].to_numpy()) == 0].sort_values(cost)
        for cost in ("latency_ms_predicted", "macs_m")
    )
    return by_latency.reset_index(drop=True), by_macs.reset_index(drop=True)


def predicted(found: Findings, archs: Iterable[ArchConfig]) -> "pd.DataFrame":
    """Return a row for each different subnet: what it is, and what is predicted of it now."""
    import pandas as pd

    different = {arch.key: arch for arch in archs}
    genomes = np.stack([found.space.encode(arch) for arch in different.values()])
    frame = pd.DataFrame([{"key": key, **arch.to_row()} for key, arch in different.items()])
    frame["resolution"] = frame["resolution"].astype(int)
    frame["macs_m"] = rounded(macs_of(found.space, genomes) / 1e6)
    frame["params_m"] = rounded(params_of(found.space, genomes) / 1e6)
    values = (*found.predictor.predict(genomes), *found.profiled.predictor.predict(genomes))
    for name, column in zip(PREDICTED, values, strict=True):
        frame[name] = rounded(column)
    frame["predicted_by"] = FITTED
    return frame


def with_measured(frame: "pd.DataFrame", found: Findings) -> "pd.DataFrame":
    """Return the rows with what the tables say of them; NaN where nothing was measured."""
    top1, table = found.accuracy.measured, found.profiled.table
    values = np.full((len(frame), len(MEASURED)), np.nan)
    for place, key in enumerate(frame["key"]):
        if key in top1:
            values[place, :2] = top1[key].top1, top1[key].standard_error
        if key in table.subnets and key not in table.failed:
            sessions = table.sessions[key]
            values[place, 2:] = table.subnets[key][1].latency_ms, repeats_within_ms(sessions)
    return frame.assign(**{name: rounded(column) for name, column in zip(MEASURED, values.T, strict=True)})


def repeats_within_ms(sessions: Sequence[Measurement]) -> float:
    """Return by how many milliseconds a floor repeats: the two lowest of its sessions, but no less than tables do."""
    floors = sorted(found.latency_ms for found in sessions)
    return max(REPEATS * floors[0], *(second - floors[0] for second in floors[1:2]), 0.0)


def without_own_rows(frame: "pd.DataFrame", found: Findings) -> "pd.DataFrame":
    """Return the rows with predictions that have not seen their measured values, where rows suffice for it."""
    top1, latency = _held_out_by_key(found)
    both = frame["key"].isin(top1.keys() & latency.keys())
    frame = frame.copy()
    for names, source in ((PREDICTED[:2], top1), (PREDICTED[2:], latency)):
        for place, name in enumerate(names):
            frame.loc[both, name] = [source[key][place] for key in frame.loc[both, "key"]]
    frame.loc[both, "predicted_by"] = HELD_OUT
    return frame


def measured_archs(found: Findings) -> dict[str, ArchConfig]:
    """Return the subnets of which the tables have both top-1 and latency, by key."""
    known = found.accuracy.rows.keys() - found.profiled.table.failed.keys()
    return {key: arch for key, (arch, _) in found.latencies.items() if key in known}


def spread_at_random(found: Findings, count: int) -> set[str]:
    """Return the keys of the first `count` subnets that profile and measure-accuracy take when nothing is chosen."""
    return {arch.key for choose in (spread_subnets, stratified_subnets) for arch in choose(found.space, count)}


def rounded(values: Values) -> Values:
    """Return values (N,) as the files show them."""
    return np.array([float(f"{value:.{DIGITS}g}") for value in values])


def _held_out_by_key(found: Findings) -> tuple[dict[str, tuple[float, float]], dict[str, tuple[float, float]]]:
    """Return the value and the half interval by key, of top-1 and of latency; empty where rows are too few."""
    sources: tuple[tuple[Iterable[str], Callable[[], HeldOut]], ...] = (
        (found.accuracy.rows, lambda: _held_out_top1(found)),
        (found.latencies, lambda: found.latency_held_out),
    )
    results: list[dict[str, tuple[float, float]]] = [{}, {}]
    for place, (keys, source) in enumerate(sources):
        with suppress(TableError):  # too few rows: what is shown says that it is a fit to all of them
            values = source()
            pairs = zip(rounded(values.predicted), rounded(values.half_widths), strict=True)
            results[place] = dict(zip(keys, pairs, strict=True))
    return results[0], results[1]


def _held_out_top1(found: Findings) -> HeldOut:
    rows = list(found.accuracy.measured.values())

    def fit(learned: Indices) -> Predict:
        some = [rows[row] for row in learned]
        errors = [row.standard_error for row in some]
        measured = [(row.arch, row.top1) for row in some]
        return AccuracyPredictor.fit(found.space, measured, standard_errors=errors).predict

    return held_out(fit, found.genomes, found.top1, MINIMUM)
