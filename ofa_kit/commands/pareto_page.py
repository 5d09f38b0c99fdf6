"""The picture of a front and the page around it: blue is measured, orange is predicted."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ofa_kit.commands.measure_accuracy import now
from ofa_kit.commands.pareto_points import CHOSEN, FRONT, LARGEST, MACS_FRONT, OTHER, RANDOM, SMALLEST
from ofa_kit.commands.pareto_text import cells, chosen_said, columns, macs_said, missing_said, random_said
from ofa_kit.commands.report_charts import NINETY, WIDE
from ofa_kit.commands.report_drawing import INK, LOG_ABOVE, MEASURED, MUTED, PREDICTED, SURFACE, Drawing, drawing, scale
from ofa_kit.commands.report_page import Headline, Section, figure, page, paragraph, table
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.training.run import Run

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

CAPTION = (
    "The band and the orange bars: 90 % intervals of the predictions. Blue bars: 90 % intervals of measured top-1, and "
    "by how much a measured latency repeats. A grey line joins what was measured with what had been predicted."
)
WIDER = 4
"""Largest by smallest latency from which its axis is logarithmic: budgets are compared by their ratio."""
TICKS = (1, 1.5, 2, 3, 5, 7)
LEGEND = ON_FRONT, BY_MACS, ON_FRONT_MEASURED, ON_FRONT_BEFORE, AT_RANDOM, OF_OTHERS = (
    "front by latency (predicted)",
    "front by MACs, at its latency (predicted)",
    "subnets of the front (measured)",
    "the same, before they were measured (predicted)",
    "random subnets (measured)",
    "other subnets (measured)",
)
FAINT: dict[str, Any] = {
    "markersize": 4, "markerfacecolor": SURFACE, "elinewidth": 0.7, "alpha": 0.65, "zorder": 2,
}  # fmt: skip
BOLD: dict[str, Any] = {"markersize": 6, "elinewidth": 1.5, "zorder": 5}


def chart(run: Run, device: DeviceProfile, frame: "pd.DataFrame", whole: "pd.DataFrame") -> Drawing:
    """Draw top-1 against latency: the predicted front, what was measured, and what else one could have chosen."""
    with drawing("Pareto front", WIDE, 6.2) as made:
        axes = made.figure.subplots()
        _latency_axis(axes, frame[["latency_ms_predicted", "latency_ms_measured"]].to_numpy())
        _front(axes, frame[frame["role"] == FRONT], whole)
        _macs_front(axes, frame[frame["role"] == MACS_FRONT])
        _chosen(axes, frame[frame["role"] == CHOSEN])
        _measured(axes, frame[frame["role"] == RANDOM], AT_RANDOM, FAINT | {"fmt": "o"})
        _measured(axes, frame[frame["role"] == OTHER], OF_OTHERS, FAINT | {"fmt": "s"})
        for role in (SMALLEST, LARGEST):
            _end(axes, frame[frame["role"] == role].iloc[0])
        batch = "one image" if device.batch == 1 else f"a batch of {device.batch}"
        axes.set(xlabel=f"latency of {batch} on {device.name}, ms", ylabel="validation top-1, %")
        axes.set_title(f"run {run.name}, {run.space.name}", loc="left", fontsize=9, color=MUTED, parse_math=False)
        handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        shown = [text for text in LEGEND if text in handles]
        made.figure.legend([handles[text] for text in shown], shown, loc="outside lower center", ncols=2)
    return made


def page_of(run: Run, device: DeviceProfile, frame: "pd.DataFrame", said: Mapping[str, Any], svg: str) -> str:
    """Return the whole page as HTML."""
    sections = [_front_section(run, device, frame, said, svg)]
    if "chosen" in said:
        text = [paragraph(line) for line in chosen_said(said)]
        rows = frame[frame["role"] == CHOSEN]
        sections.append(Section("chosen", "Measured on the front", [*text, _table(rows, "")]))
    ends = frame[frame["role"].isin((SMALLEST, LARGEST, RANDOM, OTHER))]
    parts = [paragraph(line) for line in (*macs_said(said), *random_said(said))]
    parts += [paragraph(line, "missing") for line in missing_said(run, device, said)]
    parts.append(_table(ends, "The ends of the space, and measured subnets that were not taken from the front"))
    parts.append(_table(frame[frame["role"] == MACS_FRONT], "Front of predicted top-1 against MACs"))
    sections.append(Section("baselines", "Compared with", parts))
    title = f"Pareto front of run {run.name} on {device.name}"
    return page(title, f"{run.space.name}, {now()}", _headlines(said), sections)


def _front_section(
    run: Run, device: DeviceProfile, frame: "pd.DataFrame", said: Mapping[str, Any], svg: str
) -> Section:
    front = frame[frame["role"] == FRONT]
    text = (
        f"No other of all subnets that were looked at is predicted to beat one of these {said['front_subnets']} in "
        f"both top-1 and latency; the table has {len(front)} of them. A search prefers subnets that are predicted too "
        "well: expect a little less; what was measured on the front says how much."
    )
    command = f"ofa-kit specialize --run {run.folder} --device {device.name} --latency-ms LIMIT"
    parts = [figure(svg, CAPTION), paragraph(text), _table(front, ""), paragraph(f"`{command}` measures and exports.")]
    return Section("front", "The front", parts)


def _table(frame: "pd.DataFrame", title: str) -> str:
    return table(columns(), [cells(row) for row in frame.to_dict(orient="records")], title)


def _headlines(said: Mapping[str, Any]) -> list[Headline]:
    (low, high), (fast, slow) = said["top1_predicted"], said["latency_ms_predicted"]
    found = [
        Headline(f"{low:.1f}\N{EN DASH}{high:.1f} %", "top-1 from one end of the front to the other (predicted)"),
        Headline(f"{fast:.2g}\N{EN DASH}{slow:.2g} ms", "latency from one end of the front to the other (predicted)"),
    ]
    if chosen := said.get("chosen"):
        found.append(
            Headline(
                f"{chosen['top1_bias']:+.2f} points",
                f"mean of top-1 measured less predicted, {chosen['subnets']} subnets of the front",
            )
        )
        found.append(
            Headline(f"{chosen['latency_mape']:.1f} %", "mean error of their latency, measured against predicted")
        )
    most = said["instead_of_macs"]["top1_lost_most_predicted"]
    found.append(Headline(f"{most:.2f} points", "of top-1 lost at most by choosing by MACs (predicted)"))
    return found


def _latency_axis(axes: "Axes", latency_ms: NDArray[np.float64]) -> None:
    from matplotlib.ticker import LogLocator

    low, high = np.nanmin(latency_ms), np.nanmax(latency_ms)
    scale(axes, low, high, "x")
    if WIDER <= high / low < LOG_ABOVE:
        scale(axes, low, low * LOG_ABOVE, "x")
        axes.xaxis.set_major_locator(LogLocator(subs=TICKS))


def _front(axes: "Axes", front: "pd.DataFrame", whole: "pd.DataFrame") -> None:
    x, y, reach = (whole[name] for name in ("latency_ms_predicted", "top1_predicted", "top1_predicted_error"))
    axes.fill_between(x, y - reach, y + reach, step="post", color=PREDICTED, alpha=0.12, linewidth=0, zorder=1)
    axes.step(x, y, where="post", color=PREDICTED, linewidth=1.3, zorder=3)
    axes.errorbar(
        front["latency_ms_predicted"], front["top1_predicted"], xerr=front["latency_ms_predicted_error"].fillna(0),
        fmt="o", color=PREDICTED, markersize=4.5, elinewidth=0.8, zorder=3, label=ON_FRONT,
    )  # fmt: skip


def _macs_front(axes: "Axes", front: "pd.DataFrame") -> None:
    axes.plot(
        front["latency_ms_predicted"], front["top1_predicted"], "v:", color=PREDICTED, linewidth=1, zorder=2,
        markerfacecolor=SURFACE, markersize=8, label=BY_MACS,
    )  # fmt: skip


def _measured(axes: "Axes", rows: "pd.DataFrame", text: str | None, style: Mapping[str, Any]) -> None:
    known = rows.dropna(subset=["top1_measured", "latency_ms_measured"])
    if known.empty:
        return
    axes.errorbar(
        known["latency_ms_measured"], known["top1_measured"], NINETY * known["top1_measured_standard_error"],
        known["latency_ms_measured_error"], color=MEASURED, label=text, **style,
    )  # fmt: skip


def _chosen(axes: "Axes", chosen: "pd.DataFrame") -> None:
    known = chosen.dropna(subset=["top1_measured", "latency_ms_measured"])
    if known.empty:
        return
    x, y = known["latency_ms_predicted"].to_numpy(), known["top1_predicted"].to_numpy()
    ends = np.stack([x, known["latency_ms_measured"]]), np.stack([y, known["top1_measured"]])
    axes.plot(*ends, color=MUTED, linewidth=1, zorder=4)
    _measured(axes, known, ON_FRONT_MEASURED, BOLD | {"fmt": "o"})
    axes.plot(
        x, y, "D", color=PREDICTED, markerfacecolor=SURFACE, markersize=6, zorder=5,
        label=ON_FRONT_BEFORE,
    )  # fmt: skip


def _end(axes: "Axes", row: "pd.Series[Any]") -> None:
    """Draw the smallest or the largest subnet by its measured values, or by predicted ones where one is missing."""
    known = row[["latency_ms_measured", "top1_measured"]].notna().all()
    kind, color = ("measured", MEASURED) if known else ("predicted", PREDICTED)
    _measured(axes, row.to_frame().T, None, BOLD | {"fmt": "none"})
    place = row[f"latency_ms_{kind}"], row[f"top1_{kind}"]
    axes.plot(*place, "*", color=color, markersize=11, markeredgecolor=INK, markeredgewidth=0.6, zorder=6)
    left = row["role"] == LARGEST
    axes.annotate(
        f"{row['role']} ({kind})", place, (-9 if left else 9, -13), textcoords="offset points",
        ha="right" if left else "left", fontsize=8.5, zorder=7,
        bbox={"facecolor": SURFACE, "edgecolor": "none", "alpha": 0.8, "pad": 1},
    )  # fmt: skip
