"""The command `pareto`; main.py registers it."""

from pathlib import Path
from typing import Annotated

import typer

from ofa_kit import storage
from ofa_kit.cli.options import TABLES, DeviceOption, JsonOption, RunOption, TablesOption
from ofa_kit.cli.show import open_run, show


def pareto(
    run: RunOption = None,
    device: DeviceOption = "cpu-ort",
    points: Annotated[int, typer.Option(help="Points of the predicted front to show, both ends among them.")] = 20,
    measure: Annotated[
        int, typer.Option(help="Subnets of the front to recalibrate, validate and time, counting earlier ones.")
    ] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder of the files; default: the run folder.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the search.")] = 0,
    tables: TablesOption = TABLES,
    as_json: JsonOption = False,
) -> None:
    """Show the front of top-1 against latency of a run on a device, predicted and measured.

    Beside it: random subnets, the ends of the space, and what choosing by MACs gives. Writes .csv, .png and .html.
    """
    from ofa_kit.commands.pareto import pareto as command
    from ofa_kit.commands.pareto_text import terminal
    from ofa_kit.latency.device import DeviceProfile
    from ofa_kit.progress import Terminal

    opened, profile = open_run(run), DeviceProfile.load(device)
    folder = storage.writable_folder(out or opened.folder)
    made = command(opened, profile, points=points, measure=measure, seed=seed, tables=tables, reporter=Terminal())
    paths = made.write(folder)
    text = [*terminal(opened, profile, made.frame, made.summary), *(f"{kind:5} {path}" for kind, path in paths.items())]
    show({**paths, "summary": made.summary, "rows": made.rows}, text, as_json)
