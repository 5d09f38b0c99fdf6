"""The pictures of a report: blue is measured, orange is predicted."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ofa_kit.commands.report_drawing import INK, MEASURED, MUTED, PREDICTED, SURFACE, drawing, scale
from ofa_kit.commands.report_held_out import HeldOut, Values
from ofa_kit.commands.table import MEASURED as ON_MEASURED
from ofa_kit.commands.table import PREDICTED as ON_PREDICTED
from ofa_kit.predictors import scores
from ofa_kit.predictors.effects import Effect

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

WIDE, HALF = 9.0, 4.4
"""Inches; the page shows them as its whole width and half of it."""
NINETY = 1.645
"""Standard errors in the half width of a 90 % interval."""
LETTER = 0.01
"""Width of a letter as a share of what the effects span."""
FEW_ROWS = 5
"""Measured subnets below which an effect is drawn hollow."""


def training_chart(epochs: Sequence[Mapping[str, str]]) -> str:
    """Draw loss, and top-1 of the smallest and the largest subnet, over the epochs of all phases."""
    with drawing("training", WIDE, 2.9) as made:
        loss, top1 = made.figure.subplots(1, 2)
        _curve(loss, epochs, "loss", INK, "-", "")
        loss.set(ylabel="training loss")
        _curve(top1, epochs, "top1_largest", MEASURED, "-", "largest")
        _curve(top1, epochs, "top1_smallest", MEASURED, "--", "smallest")
        top1.set(ylabel="validation top-1, % (measured)")
        for axes in (loss, top1):
            axes.set(xlabel="epoch", xlim=(0, len(epochs) * 1.2))
            _mark_phases(axes, [row["phase"] for row in epochs])
    return made.svg


def agreement_chart(name: str, found: HeldOut, quantity: str, standard_errors: Values | None = None) -> str:
    """Draw held-out predictions against what was measured, both with their 90 % intervals."""
    with drawing(name, HALF, 4.1) as made:
        axes = made.figure.subplots()
        low = min(found.measured.min(), found.predicted.min())
        high = max(found.measured.max(), found.predicted.max())
        scale(axes, low, high, "both")
        if standard_errors is not None:
            reach = NINETY * np.nan_to_num(standard_errors)
            axes.hlines(
                found.predicted, found.measured - reach, found.measured + reach, MEASURED, alpha=0.3, linewidth=0.8
            )
        axes.axline((low, low), (high, high), color=MUTED, linewidth=0.9, zorder=1)
        for part, color, text in (
            (found.inside, PREDICTED, "holds the measured value"),
            (~found.inside, INK, "misses it"),
        ):
            if part.any():
                axes.errorbar(
                    found.measured[part],
                    found.predicted[part],
                    yerr=found.half_widths[part],
                    fmt="o",
                    markersize=3.4,
                    color=color,
                    elinewidth=0.8,
                    alpha=0.75,
                    label=f"{text}: {part.sum()} of {len(part)}",
                )
        axes.set(xlabel=f"{quantity} (measured)", ylabel=f"{quantity} (predicted, held out)")
        axes.legend(loc="upper left", title="90 % interval of the prediction", alignment="left", handletextpad=0.3)
    return made.svg


def relative_error_chart(found: HeldOut) -> str:
    """Draw by how many percent held-out predictions are above or below what was measured, with 90 % intervals."""
    with drawing("relative error", HALF, 4.1) as made:
        axes = made.figure.subplots()
        scale(axes, found.measured.min(), found.measured.max(), "x")
        for part, color in ((found.inside, PREDICTED), (~found.inside, INK)):
            percent = 100 / found.measured[part]
            error = (found.predicted - found.measured)[part] * percent
            reach = found.half_widths[part] * percent
            axes.errorbar(
                found.measured[part], error, reach, fmt="o", markersize=3.4, color=color, elinewidth=0.8, alpha=0.75
            )
        axes.axhline(0, color=MUTED, linewidth=0.9, zorder=1)
        axes.set(xlabel="latency, ms (measured)", ylabel="error, % (predicted, held out)")
    return made.svg


def learning_chart(curve: Sequence[HeldOut], sampling: float, tau_of_macs: float) -> str:
    """Draw held-out RMSE and Kendall's tau against the number of subnets that were learned from."""
    with drawing("learning curve", HALF, 4.1) as made:
        error, order = made.figure.subplots(2, 1, sharex=True)
        sizes = [found.size for found in curve]
        for axes, score, text in ((error, scores.rmse, "RMSE, points"), (order, scores.kendall_tau, "Kendall's tau")):
            values, errors = np.array([found.scored(score) for found in curve]).T
            axes.errorbar(sizes, values, yerr=errors, fmt="o-", color=PREDICTED, markersize=4, linewidth=1.4)
            axes.set(ylabel=f"{text} (held out)", xlim=(0, sizes[-1] * 1.1))
        _level(error, sampling, "standard error of a measurement", "left")
        _level(order, tau_of_macs, "order by MACs alone", "right")
        error.set_ylim(bottom=0)
        order.set(xlabel="measured subnets learned from", xticks=sizes)
    return made.svg


def effects_chart(effects: Sequence[Effect]) -> str:
    """Draw what each choice gives, a row for each, the widest first; small choices light, large ones dark."""
    with drawing("main effects", WIDE, 0.8 + 0.36 * len(effects)) as made:
        axes = made.figure.subplots()
        points = np.concatenate([effect.points for effect in effects])
        errors = np.nan_to_num(np.concatenate([effect.standard_errors for effect in effects]))
        span = max(float(np.max(points + errors) - np.min(points - errors)), 0.01)
        for row, effect in enumerate(effects):
            _effect(axes, row, effect, letter=LETTER * span)
        axes.axvline(0, color=MUTED, linewidth=0.9, zorder=1)
        axes.set_yticks(range(len(effects)), [effect.name for effect in effects])
        axes.set(ylim=(len(effects) - 0.5, -0.8), xlabel="points of top-1 (predicted)")
        axes.tick_params(axis="y", length=0)
    return made.svg


def front_chart(frame: "pd.DataFrame", cost: str, quantity: str) -> str:
    """Draw measured top-1 against measured cost, and beside the front what predictions said of it, held out."""
    both = cost == "latency_ms"
    columns = {kind: f"{cost}_{kind}" if both else cost for kind in ("measured", "predicted", "held_out")}
    on_front = frame[frame["pareto"] == ON_MEASURED].sort_values(columns["measured"])
    hoped = frame[frame["pareto"] == ON_PREDICTED]
    with drawing("Pareto front", WIDE, 4.6) as made:
        axes = made.figure.subplots()
        known = frame[[columns["measured"], columns["predicted"]]].to_numpy()
        scale(axes, np.nanmin(known), np.nanmax(known[np.isfinite(known)]), "x")
        axes.plot(frame[columns["measured"]], frame["top1_measured"], "o", color=MEASURED, alpha=0.3, markersize=3.5)
        x, y = on_front[columns["measured"]].to_numpy(), on_front["top1_measured"].to_numpy()
        axes.step(x, y, where="post", color=MEASURED, linewidth=1)
        if len(on_front):
            _bars(axes, x, y, NINETY * on_front["top1_standard_error"], MEASURED, "o", MEASURED, "front (measured)")
        if {"top1_held_out", columns["held_out"]} <= set(frame.columns):
            guess_x, guess_y = on_front[columns["held_out"]].to_numpy(), on_front["top1_held_out"].to_numpy()
            axes.plot(np.stack([x, guess_x]), np.stack([y, guess_y]), color=MUTED, linewidth=0.7)
            error = on_front["top1_held_out_error"]
            _bars(axes, guess_x, guess_y, error, PREDICTED, "D", SURFACE, "the same subnets (predicted, held out)")
        if len(hoped):
            x, y = hoped[columns["predicted"]].to_numpy(), hoped["top1_predicted"].to_numpy()
            _bars(axes, x, y, hoped["top1_error"], PREDICTED, "^", PREDICTED, "not measured yet (predicted)")
        axes.set(xlabel=quantity, ylabel="top-1, %")
        axes.legend(loc="lower right", title="bars: 90 % intervals", alignment="left")
    return made.svg


def _curve(axes: "Axes", epochs: Sequence[Mapping[str, str]], column: str, color: str, line: str, text: str) -> None:
    """Draw one column over the epochs that have it, and name it at its end."""
    points = [(number, float(row[column])) for number, row in enumerate(epochs, start=1) if row[column]]
    if not points:
        return
    axes.plot(*zip(*points, strict=True), line, marker="o", color=color, markersize=3.5, linewidth=1.4)
    axes.annotate(f" {text} {points[-1][1]:.4g}", points[-1], (4, 0), textcoords="offset points", va="center")


def _mark_phases(axes: "Axes", phases: Sequence[str]) -> None:
    """Draw where each phase begins, where there are several."""
    starts = [n for n in range(len(phases)) if n == 0 or phases[n] != phases[n - 1]]
    for start in starts if len(starts) > 1 else []:
        axes.axvline(start + 0.5, color=MUTED, linewidth=0.8, linestyle=":")
        axes.annotate(
            f" {phases[start]}", (start + 0.5, 1), xycoords=("data", "axes fraction"), va="bottom", fontsize=7.5,
            rotation=20, color=MUTED,
        )  # fmt: skip


def _level(axes: "Axes", value: float, text: str, side: str) -> None:
    """Draw a horizontal line to compare with, named at its `left` or `right`."""
    if np.isfinite(value):
        axes.axhline(value, color=MUTED, linewidth=0.9, linestyle="--", zorder=1)
        axes.annotate(
            text, (side == "right", value), xycoords=("axes fraction", "data"), xytext=(0, -3), va="top", ha=side,
            textcoords="offset points", fontsize=8, color=MUTED,
        )  # fmt: skip


def _effect(axes: "Axes", row: int, effect: Effect, letter: float) -> None:
    """Draw a row of points, named by their choices as far as names `letter` wide a character find room."""
    shades = np.linspace(0.35, 1, len(effect.choices))
    names = [f"{choice:g}" for choice in effect.choices]
    roomy = _apart(effect.points, np.array([letter * (len(name) + 0.5) for name in names]))
    values = zip(names, effect.points, effect.standard_errors, effect.rows, shades, roomy, strict=True)
    for name, point, error, rows, shade, has_room in values:
        face = SURFACE if rows < FEW_ROWS else PREDICTED
        _bars(axes, point, row, error, PREDICTED, "o", face, "", across=True, alpha=shade)
        if has_room:
            axes.annotate(name, (point, row), (0, 5.5), textcoords="offset points", ha="center", fontsize=7.5)


def _apart(places: Values, widths: Values) -> list[bool]:
    """Return which names keep their place: none overlaps another; those of the smallest and largest choice go first."""
    order = sorted(range(len(places)), key=lambda index: min(index, len(places) - 1 - index))
    kept: list[int] = []
    for index in order:
        if all(abs(places[index] - places[other]) >= (widths[index] + widths[other]) / 2 for other in kept):
            kept.append(index)
    return [index in kept for index in range(len(places))]


def _bars(
    axes: "Axes", x: Any, y: Any, error: Any, color: str, marker: str, face: str, text: str, *,
    across: bool = False, alpha: float = 1.0,
) -> None:  # fmt: skip
    """Draw points with error bars, without bars where the error is not known."""
    known = np.nan_to_num(np.asarray(error, dtype=float))
    axes.errorbar(
        x,
        y,
        **{"xerr" if across else "yerr": known},
        fmt=marker,
        color=color,
        markerfacecolor=face,
        markersize=5.5,
        elinewidth=1.7 if color == MEASURED else 1,
        alpha=alpha,
        label=text or None,
    )
