"""report: one page on a run and a device: training, predictors, what drives top-1, Pareto front."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ofa_kit import storage
from ofa_kit.commands.measure_accuracy import now
from ofa_kit.commands.profile import TABLES
from ofa_kit.commands.report_accuracy import accuracy_section, effects_section
from ofa_kit.commands.report_charts import FEW_ROWS
from ofa_kit.commands.report_drawing import require_matplotlib
from ofa_kit.commands.report_findings import Findings
from ofa_kit.commands.report_latency import front_section, latency_section
from ofa_kit.commands.report_page import Headline, Section, page, paragraph
from ofa_kit.commands.report_run import run_section, training_section
from ofa_kit.errors import OfaKitError
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.progress import Reporter, Silent
from ofa_kit.training.run import Run

SECTIONS: Mapping[str, Callable[[Findings], Section]] = {
    "The run": run_section,
    "Training": training_section,
    "Pareto front": front_section,
    "How well top-1 is predicted": accuracy_section,
    "What drives top-1": effects_section,
    "How well latency is predicted": latency_section,
}


@dataclass(frozen=True)
class Report:
    """The page as HTML, and its numbers by section."""

    html: str
    values: Mapping[str, Any]
    headlines: Sequence[Headline]

    @property
    def missing(self) -> list[str]:
        """What sections lack and which command brings it, one line each."""
        return list(dict.fromkeys(found["missing"] for found in self.values.values() if "missing" in found))

    def write(self, path: Path) -> None:
        """Replace the page in one step."""
        storage.write_text(path, self.html)


def report(run: Run, device: DeviceProfile, *, tables: Path = TABLES, reporter: Reporter | None = None) -> Report:
    """Return the report; a section for which something was not measured says what to run."""
    require_matplotlib()
    found = Findings(run, device, tables, reporter or Silent())
    sections = [_section(title, build, found) for title, build in SECTIONS.items()]
    values = {section.name: section.values for section in sections}
    headlines = _headlines(values)
    html = page(f"Run {run.name}", f"{run.space.name} on {device.name}, {now()}", headlines, sections)
    return Report(html, _plain(values), headlines)


def _section(title: str, build: Callable[[Findings], Section], found: Findings) -> Section:
    try:
        return build(found)
    except OfaKitError as error:
        name = build.__name__.removesuffix("_section")
        return Section(name, title, [paragraph(str(error), "missing")], {"missing": str(error)})


def _headlines(values: Mapping[str, Mapping[str, Any]]) -> list[Headline]:
    """Return the numbers to read first, as far as they are known."""
    front, accuracy, effects, latency = (values[name] for name in ("front", "accuracy", "effects", "latency"))
    found = []
    top1 = [row["top1_measured"] for row in front.get("rows", []) if math.isfinite(row["top1_measured"])]
    if top1:
        found.append(Headline(f"{max(top1):.2f} %", f"best top-1 of {len(top1)} subnets (measured)"))
    if "rmse" in accuracy:
        text = f"RMSE of top-1 (predicted, held out); Kendall's tau {accuracy['tau']:.2f}"
        found.append(Headline(f"{accuracy['rmse']:.2f} points", text))
    known = [effect for effect in effects.get("effects", []) if min(effect["measured_subnets"]) >= FEW_ROWS]
    if known:
        first = known[0]
        text = f"of top-1 from {first['name']}, the strongest choice (predicted)"
        found.append(Headline(f"{np.ptp(first['points_predicted']):.2f} points", text))
    if "mape" in latency:
        found.append(Headline(f"{latency['mape']:.1f} %", "mean error of latency (predicted, held out)"))
    return found


def _plain(value: Any) -> Any:
    """Return values as JSON has them: None where there is no number."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
