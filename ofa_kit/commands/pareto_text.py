"""What a front says in words and columns, the same in the terminal and on the page."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ofa_kit.commands.pareto_points import CHOSEN, FRONT, LARGEST, SMALLEST
from ofa_kit.commands.report_charts import NINETY
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.training.run import Run

if TYPE_CHECKING:
    import pandas as pd


def columns() -> list[str]:
    """Return the heads of `cells`."""
    return [
        "subnet", "role", "px", "depths", "M MACs", "top-1, % (predicted)", "top-1, % (measured)", "ms (predicted)",
        "ms (measured)",
    ]  # fmt: skip


def cells(row: Mapping[Any, Any]) -> list[str]:
    """Return one row for a person; after ± half a 90 % interval, or by how much a measured latency repeats."""
    return [
        row["key"],
        row["role"].replace("_", " "),
        str(row["resolution"]),
        row["depths"],
        f"{row['macs_m']:.4g}",
        _with_error(row["top1_predicted"], row["top1_predicted_error"], 2),
        _with_error(row["top1_measured"], NINETY * row["top1_measured_standard_error"], 2),
        _with_error(row["latency_ms_predicted"], row["latency_ms_predicted_error"], 4),
        _with_error(row["latency_ms_measured"], row["latency_ms_measured_error"], 4),
    ]


def terminal(run: Run, device: DeviceProfile, frame: "pd.DataFrame", said: Mapping[str, Any]) -> list[str]:
    """Return the lines of a terminal: the front, what was measured of it, the ends, and the rest in words."""
    shown = frame[frame["role"].isin((FRONT, CHOSEN, SMALLEST, LARGEST))].to_dict(orient="records")
    front = (frame["role"] == FRONT).sum()
    return [
        f"front of run {run.name} on {device.name}: {front} of {said['front_subnets']} subnets (predicted)",
        *_aligned([columns(), *map(cells, shown)]),
        *chosen_said(said),
        *macs_said(said),
        *random_said(said),
        *missing_said(run, device, said),
    ]


def chosen_said(said: Mapping[str, Any]) -> list[str]:
    """Return how far predictions were off on the front."""
    if "chosen" not in said:
        return []
    found = said["chosen"]
    return [
        f"{found['subnets']} subnets of the front were predicted first and measured then. Top-1 measured less "
        f"predicted: mean {found['top1_bias']:+.2f} points, RMSE {found['top1_rmse']:.2f}, "
        f"{found['top1_inside']} of {found['subnets']} inside the 90 % interval. Latency measured against predicted: "
        f"mean {found['latency_bias_percent']:+.1f} %, mean absolute error {found['latency_mape']:.1f} %, "
        f"{found['latency_inside']} of {found['subnets']} inside the 90 % interval."
    ]


def macs_said(said: Mapping[str, Any]) -> list[str]:
    """Return what choosing by MACs loses."""
    found = said["instead_of_macs"]
    return [
        "Choosing by MACs instead of latency loses, at the same latency, "
        f"{found['top1_lost_median_predicted']:.2f} points of top-1 (median; {found['top1_lost_most_predicted']:.2f} "
        "at most) or takes, for the same top-1, "
        f"{found['latency_longer_median_percent_predicted']:.1f} % longer (median; "
        f"{found['latency_longer_most_percent_predicted']:.1f} % at most): all predicted."
    ]


def random_said(said: Mapping[str, Any]) -> list[str]:
    """Return what random subnets lose against measured ones of the front."""
    found = said.get("instead_of_random", {"subnets": 0})
    if not found["subnets"]:
        return []
    return [
        f"Of {found['subnets']} random subnets no faster than the fastest measured one of the front, "
        f"{found['below_front']} have a lower top-1 than the best of these that is as fast. Its top-1 less theirs: "
        f"{found['top1_lost_median_measured']:+.2f} points in the median, {found['top1_lost_most_measured']:+.2f} at "
        "most (all measured)."
    ]


def missing_said(run: Run, device: DeviceProfile, said: Mapping[str, Any]) -> list[str]:
    """Return what could not be shown, and which command brings it."""
    lines = []
    if half := said["only_top1"] + said["only_latency"]:
        lines.append(
            f"{half} more subnets have a measured top-1 or a measured latency, not both ({said['only_top1']} and "
            f"{said['only_latency']}): predictors learn from them, as points they are not shown."
        )
    if said["not_measured"]:
        lines.append(
            f"{said['not_measured']} chosen subnets of the front are not measured: {device.name} does not run them, or "
            f"the command was broken off; the same command with --measure goes on, `ofa-kit table --run {run.folder}` "
            "shows what there is."
        )
    if "chosen" not in said:
        lines.append("No subnet of the front was measured yet: --measure K does that for K of them, spread over it.")
    return lines


def _aligned(rows: list[list[str]]) -> list[str]:
    """Return rows of cells as lines of a terminal; the first two columns are names, the others end together."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _with_error(value: float, error: float, digits: int) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.{digits}f}" + ("" if math.isnan(error) else f" ± {error:.{digits}f}")
