"""Sections of a report on top-1: how well it is predicted, and what drives it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ofa_kit.arch.features import macs_of
from ofa_kit.commands.report_charts import FEW_ROWS, agreement_chart, effects_chart, learning_chart
from ofa_kit.commands.report_findings import Findings
from ofa_kit.commands.report_held_out import HeldOut
from ofa_kit.commands.report_page import Section, beside, figure, paragraph, table
from ofa_kit.predictors import scores
from ofa_kit.predictors.effects import Effect, main_effects


def accuracy_section(found: Findings) -> Section:
    """Hold predicted top-1 against measured top-1, and say what more measuring would bring."""
    curve = found.learning_curve
    last, values = curve[-1], _values(found, curve)
    caption = "Every point is one subnet. Blue, across: 90 % interval of the measurement."
    learned = (
        "Bars: one standard error. Differences between subnets are surer than the standard error of a measurement "
        "says, because all are measured on the same images."
    )
    by_size = learning_chart(curve, values["standard_error_of_a_measurement"], values["tau_of_macs"])
    pictures = beside(
        figure(agreement_chart("top-1", last, "top-1, %", found.standard_errors), caption), figure(by_size, learned)
    )
    text = (
        f"Held out: each fifth of the {len(found.top1)} measured subnets is predicted by a predictor that learned "
        f"from {last.size} of the others, intervals included. The predictor in use learned from all and says of "
        f"itself: {found.predictor.quality}."
    )
    return Section(
        "accuracy", "How well top-1 is predicted", [paragraph(text), pictures, _scores_table(values)], values
    )


def effects_section(found: Findings) -> Section:
    """Say what each choice of the space gives in points of top-1."""
    refits = [lambda genomes, refit=refit: refit(genomes)[0] for refit in found.learning_curve[-1].refits]
    effects = main_effects(found.space, found.predictor.predict_top1, found.genomes, refits)
    text = (
        "What one choice changes, all others random: points of top-1 (predicted) against the mean of its values. A "
        "choice for a stage is for all its blocks. Standard errors come from predictors that learned without one "
        f"fifth of the {len(found.top1)} measured subnets each."
    )
    few = (
        f"Hollow points and numbers marked * have fewer than {FEW_ROWS} measured subnets behind them: take them for a "
        "guess, and measure more with `ofa-kit measure-accuracy`."
    )
    is_few = any(min(effect.rows) < FEW_ROWS for effect in effects)
    caption = "Small values of a choice are light, large ones dark; bars: one standard error."
    parts = [paragraph(text), *([paragraph(few, "note")] if is_few else []), figure(effects_chart(effects), caption)]
    parts.append(beside(*(_effect_table(effect) for effect in effects)))
    return Section("effects", "What drives top-1", parts, {"effects": [_effect_values(effect) for effect in effects]})


def _values(found: Findings, curve: Sequence[HeldOut]) -> dict[str, Any]:
    last, macs = curve[-1], macs_of(found.space, found.genomes)
    return {
        **_point(last),
        "tau_top": last.tau_top,
        "top": int(last.top.sum()),
        "half_width": float(np.median(last.half_widths)),
        "tau_of_macs": scores.kendall_tau(macs, found.top1),
        "tau_of_macs_top": last.order_of_top(macs),
        "standard_error_of_a_measurement": float(np.sqrt(np.mean(found.standard_errors**2))),
        "predictor": found.predictor.quality,
        "learning_curve": [_point(one) for one in curve],
        "held_out": _rows(found, last),
    }


def _scores_table(values: Mapping[str, Any]) -> str:
    rows = [
        (
            "RMSE, points",
            f"{values['rmse']:.2f} ± {values['rmse_standard_error']:.2f}",
            f"{values['standard_error_of_a_measurement']:.2f}: standard error of a measurement",
        ),
        (
            "Kendall's tau",
            f"{values['tau']:.3f} ± {values['tau_standard_error']:.3f}",
            f"{values['tau_of_macs']:.3f}: order by MACs alone",
        ),
        (
            f"Kendall's tau among the best {values['top']}",
            f"{values['tau_top']:.3f}",
            f"{values['tau_of_macs_top']:.3f}: order by MACs alone",
        ),
        ("measured inside the 90 % interval", f"{100 * values['coverage']:.0f} %", "90 %: meant"),
        ("half width of the interval, median, points", f"{values['half_width']:.2f}", ""),
    ]
    told = [row for row in rows if row[1] != "nan"]  # too few subnets to judge the order of the best
    return table(("top-1, predicted against measured", "held out", "to compare with"), told)


def _effect_table(effect: Effect) -> str:
    rows = [
        (f"{choice:g}", f"{point:+.2f}{'*' if count < FEW_ROWS else ''}", f"{error:.2f}", f"{macs_m:+.2f}", str(count))
        for choice, point, error, macs_m, count in zip(
            effect.choices, effect.points, effect.standard_errors, effect.macs_m, effect.rows, strict=True
        )
    ]
    return table(("", "points (predicted)", "± s.e.", "M MACs", "measured subnets"), rows, effect.name)


def _effect_values(effect: Effect) -> dict[str, object]:
    return {
        "name": effect.name,
        "choices": effect.choices,
        "points_predicted": effect.points.tolist(),
        "standard_errors": effect.standard_errors.tolist(),
        "macs_m": effect.macs_m.tolist(),
        "measured_subnets": effect.rows,
    }


def _point(found: HeldOut) -> dict[str, float]:
    (rmse, rmse_error), (tau, tau_error) = found.scored(scores.rmse), found.scored(scores.kendall_tau)
    return {
        "size": found.size, "rmse": rmse, "rmse_standard_error": rmse_error, "tau": tau,
        "tau_standard_error": tau_error, "coverage": found.coverage,
    }  # fmt: skip


def _rows(found: Findings, last: HeldOut) -> list[dict[str, object]]:
    return [
        {
            "key": key,
            "top1_measured": measured,
            "top1_standard_error": error,
            "top1_predicted": predicted,
            "top1_error": half,
        }
        for key, measured, error, predicted, half in zip(
            found.accuracy.rows, last.measured, found.standard_errors, last.predicted, last.half_widths, strict=True
        )
    ]
