"""Sections of a report on a device: how well its latency is predicted, and the Pareto front on it."""

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ofa_kit.commands.report_charts import NINETY, agreement_chart, front_chart, relative_error_chart
from ofa_kit.commands.report_findings import Findings
from ofa_kit.commands.report_held_out import HeldOut
from ofa_kit.commands.report_page import Section, beside, figure, paragraph, table
from ofa_kit.commands.table import MEASURED, PREDICTED
from ofa_kit.errors import OfaKitError, TableError
from ofa_kit.predictors import scores

if TYPE_CHECKING:
    import pandas as pd


def latency_section(found: Findings) -> Section:
    """Hold predicted latency against measured latency."""
    last, quality = found.latency_held_out, found.profiled.predictor.quality
    mape, within_5 = scores.mape(last.predicted, last.measured), scores.within(last.predicted, last.measured, 5)
    tau = scores.kendall_tau(last.predicted, last.measured)
    rows = [
        ("mean absolute error", f"{mape:.1f} %"),
        ("within 5 % of the measured time", f"{100 * within_5:.0f} %"),
        ("Kendall's tau", f"{tau:.3f}"),
        ("measured inside the 90 % interval", f"{100 * last.coverage:.0f} %"),
    ]
    text = (
        f"Held out: each fifth of the {len(last.measured)} measured subnets is predicted by a predictor that learned "
        f"from the other four. The predictor in use learned from all and says of itself: {quality}."
    )
    pictures = beside(
        figure(agreement_chart("latency", last, "latency, ms"), "Every point is one subnet."),
        figure(relative_error_chart(last), "The same errors as a share of the measured latency."),
    )
    numbers = table(("latency, predicted against measured", "held out"), rows)
    values = {
        "device": found.device.name, "subnets": len(last.measured), "mape": mape, "within_5": within_5, "tau": tau,
        "coverage": last.coverage, "predictor": quality,
    }  # fmt: skip
    title = f"How well latency on {found.device.name} is predicted"
    return Section("latency", title, [paragraph(text), pictures, numbers], values)


def front_section(found: Findings) -> Section:
    """Show the Pareto front by what was measured, and what had been predicted of its subnets."""
    joined = found.joined
    frame = _with_held_out(joined.frame, found)
    if (frame["pareto"] == "").all():
        raise TableError("; ".join(joined.missing) or "no subnet has both top-1 and latency, measured or predicted")
    what = f"latency on {found.device.name}, ms" if joined.cost == "latency_ms" else "MACs, millions"
    parts = [paragraph(line, "missing") for line in joined.missing]
    parts += [paragraph(line) for line in _said_of_front(frame, what.split(",")[0])]
    parts.append(figure(front_chart(frame, joined.cost, what), "Small points: the other measured subnets."))
    parts.append(_front_table(frame[frame["pareto"] != ""], joined.cost))
    command = f"ofa-kit export --arch SUBNET --run {found.run.folder} --device {found.device.name}"
    parts.append(paragraph(f"`{command}` measures and exports one of them."))
    return Section("front", "Pareto front", parts, {"cost": joined.cost, "rows": frame.to_dict(orient="records")})


def _said_of_front(frame: "pd.DataFrame", cost: str) -> list[str]:
    """Return a paragraph for each kind of front that the table has."""
    measured, predicted = (int((frame["pareto"] == kind).sum()) for kind in (MEASURED, PREDICTED))
    lines = []
    if measured:
        lines.append(
            f"{measured} of {len(frame)} subnets are beaten by no other in both top-1 and {cost}, by measured values "
            "alone. The best of many measured values is a little lucky: where the prediction that had not seen a "
            "subnet lies lower, expect its true top-1 between the two."
        )
    if predicted:
        lines.append(f"By predicted values alone, {predicted} with top-1 or {cost} not measured would be on the front.")
    return lines


def _with_held_out(frame: "pd.DataFrame", found: Findings) -> "pd.DataFrame":
    """Return the table with `top1_held_out`, `latency_ms_held_out` and their `..._error`, where rows suffice for it."""
    sources: dict[str, Callable[[], tuple[list[str], HeldOut]]] = {
        "top1": lambda: (list(found.accuracy.rows), found.learning_curve[-1]),
        "latency_ms": lambda: (list(found.latencies), found.latency_held_out),
    }
    frame = frame.copy()
    for name, source in sources.items():
        with suppress(OfaKitError):  # the section of that predictor says what is missing
            keys, held_out = source()
            frame[f"{name}_held_out"] = frame["key"].map(dict(zip(keys, held_out.predicted, strict=True)))
            frame[f"{name}_held_out_error"] = frame["key"].map(dict(zip(keys, held_out.half_widths, strict=True)))
    return frame


def _front_table(frame: "pd.DataFrame", cost: str) -> str:
    """Return the rows of the front, fastest first."""
    columns = ["subnet", "front by", "px", "depths", "M MACs", "top-1, % (measured)", "top-1, % (predicted)"]
    columns += ["ms (measured)", "ms (predicted)"] if cost == "latency_ms" else []
    rows = []
    for row in frame.to_dict(orient="records"):
        cells = [str(row[name]) for name in ("key", "pareto", "resolution", "depths")]
        measured = _with_error(row["top1_measured"], NINETY * row["top1_standard_error"], 2)
        cells += [f"{row['macs_m']:.2f}", measured, _predicted(row, "top1", 2)]
        if cost == "latency_ms":
            cells += [_with_error(row["latency_ms_measured"], float("nan"), 3), _predicted(row, "latency_ms", 3)]
        rows.append(cells)
    return table(columns, rows, "On the front; ± half the 90 % interval, predictions of measured values are held out")


def _predicted(row: Mapping[Any, Any], name: str, digits: int) -> str:
    """Return the held-out prediction where there is one: the predictor in use has seen what was measured."""
    held_out = row.get(f"{name}_held_out", float("nan"))
    if not math.isnan(held_out):
        return _with_error(held_out, row[f"{name}_held_out_error"], digits)
    return _with_error(row[f"{name}_predicted"], row[f"{name}_error"], digits)


def _with_error(value: float, error: float, digits: int) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.{digits}f}" + (f" ± {error:.{digits}f}" if not math.isnan(error) else "")
