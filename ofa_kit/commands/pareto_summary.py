"""What the points of a front say in numbers: its reach, how far predictions were off, and what other choices lose."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ofa_kit.commands.pareto_points import CHOSEN, LARGEST, OTHER, RANDOM, SMALLEST
from ofa_kit.commands.report_held_out import Values
from ofa_kit.search.active import front_at

if TYPE_CHECKING:
    import pandas as pd


def summary(
    frame: "pd.DataFrame", whole: "pd.DataFrame", by_macs: "pd.DataFrame", half_measured: Mapping[str, int]
) -> dict[str, Any]:
    """Return the numbers of a front; those of which there is no value are left out.

    `whole` and `by_macs` are all points of both predicted fronts, `frame` the rows with their roles.
    """
    counts = frame["role"].value_counts()
    measured = frame.dropna(subset=["top1_measured", "latency_ms_measured"])
    chosen, at_random = (measured[measured["role"] == role] for role in (CHOSEN, RANDOM))
    found: dict[str, Any] = {
        "front_subnets": len(whole),
        "top1_predicted": _ends(whole["top1_predicted"]),
        "latency_ms_predicted": _ends(whole["latency_ms_predicted"]),
        "measured_subnets": {
            role: int((measured["role"] == role).sum()) for role in (CHOSEN, SMALLEST, LARGEST, RANDOM, OTHER)
        },
        **half_measured,
        "not_measured": int(counts.get(CHOSEN, 0)) - len(chosen),
        "instead_of_macs": instead_of_macs(whole, by_macs),
    }
    if len(chosen):
        found["chosen"] = errors(chosen)
    if len(chosen) and len(at_random):
        found["instead_of_random"] = instead_of_random(chosen, at_random)
    return found


def errors(chosen: "pd.DataFrame") -> dict[str, Any]:
    """Return how far predictions made before measuring were off on subnets (N,) of the front."""
    top1 = (chosen["top1_measured"] - chosen["top1_predicted"]).to_numpy()
    percent = (100 * (chosen["latency_ms_measured"] / chosen["latency_ms_predicted"] - 1)).to_numpy()
    latency = (chosen["latency_ms_measured"] - chosen["latency_ms_predicted"]).to_numpy()
    return {
        "subnets": len(chosen),
        "top1_bias": float(top1.mean()),
        "top1_rmse": float(np.sqrt(np.mean(top1**2))),
        "top1_inside": int((np.abs(top1) <= chosen["top1_predicted_error"]).sum()),
        "latency_bias_percent": float(percent.mean()),
        "latency_mape": float(np.abs(percent).mean()),
        "latency_inside": int((np.abs(latency) <= chosen["latency_ms_predicted_error"]).sum()),
    }


def instead_of_macs(whole: "pd.DataFrame", by_macs: "pd.DataFrame") -> dict[str, float]:
    """Return what those lose who choose by MACs and then run it on the device, by predicted values alone."""
    top1, cost = whole["top1_predicted"].to_numpy(), whole["latency_ms_predicted"].to_numpy()
    other, other_cost = by_macs["top1_predicted"].to_numpy(), by_macs["latency_ms_predicted"].to_numpy()
    lost = front_at(cost, top1, other_cost) - other
    needed = cost[np.searchsorted(top1, other, side="left")]
    longer = 100 * (other_cost / needed - 1)
    return {
        "top1_lost_median_predicted": float(np.median(lost)),
        "top1_lost_most_predicted": float(lost.max()),
        "latency_longer_median_percent_predicted": float(np.median(longer)),
        "latency_longer_most_percent_predicted": float(longer.max()),
    }


def instead_of_random(chosen: "pd.DataFrame", at_random: "pd.DataFrame") -> dict[str, float]:
    """Return what random subnets lose against the best chosen one that is as fast, by measured values alone."""
    cost: Values = chosen["latency_ms_measured"].to_numpy()
    other_cost: Values = at_random["latency_ms_measured"].to_numpy()
    slower = other_cost >= cost.min()
    best = front_at(cost, chosen["top1_measured"].to_numpy(), other_cost[slower])
    lost = best - at_random["top1_measured"].to_numpy()[slower]
    if not len(lost):
        return {"subnets": 0}
    return {
        "subnets": len(lost),
        "below_front": int((lost > 0).sum()),
        "top1_lost_median_measured": float(np.median(lost)),
        "top1_lost_most_measured": float(lost.max()),
    }


def _ends(values: "pd.Series[float]") -> list[float]:
    return [float(values.min()), float(values.max())]
