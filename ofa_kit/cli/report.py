"""The command `report`; main.py registers it."""

from pathlib import Path
from typing import Annotated

import typer

from ofa_kit.cli.options import TABLES, DeviceOption, JsonOption, RunOption, TablesOption
from ofa_kit.cli.show import open_run, show


def report(
    run: RunOption = None,
    device: DeviceOption = "cpu-ort",
    out: Annotated[Path | None, typer.Option(help="HTML file; default: report.html in the run folder.")] = None,
    tables: TablesOption = TABLES,
    as_json: JsonOption = False,
) -> None:
    """Write one page on a run: training, predictors, what drives top-1, Pareto front.

    Nothing is measured: a section that lacks something says what to run.
    """
    from ofa_kit.commands.report import report as command
    from ofa_kit.latency.device import DeviceProfile
    from ofa_kit.progress import Terminal

    opened = open_run(run)
    path = opened.folder / "report.html" if out is None else out
    made = command(opened, DeviceProfile.load(device), tables=tables, reporter=Terminal())
    made.write(path)
    text = [f"report: {path}", *(f"{one.number}: {one.text}" for one in made.headlines)]
    text += [f"missing: {line}" for line in made.missing]
    show({"report": str(path), **made.values}, text, as_json)
