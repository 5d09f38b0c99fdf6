"""`ofa-kit train-cells`; main.py registers it."""

from pathlib import Path
from typing import Annotated

import typer

from ofa_kit.cli.options import JsonOption
from ofa_kit.cli.show import run_folder, show
from ofa_kit.errors import OfaKitError


def train_cells(
    genotype: Annotated[
        str | None,
        typer.Option(help="darts-v1, darts-v2, nasnet, amoebanet, pc-darts-*, enas-micro, a file, or the text itself."),
    ] = None,
    macro_arc: Annotated[
        str | None, typer.Option(help="A whole network instead of cells: enas-macro, a file, or the numbers.")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="Recipe: cells-small, macro-small, ... or a YAML file.")] = None,
    data: Annotated[str | None, typer.Option(help="digits, fashion-mnist, cifar10 or imagefolder:PATH.")] = None,
    run: Annotated[str | None, typer.Option("--run", help="Name of the run, or a folder; default: recipe.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    device: Annotated[str | None, typer.Option(help="Device profile on which the trained network is timed.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights and batches.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any recipe key: --set channels=16")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted training.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train the network of a genotype or of a macro arc from scratch; validate, export, prove and time it."""
    from ofa_kit.cli.values import read_values
    from ofa_kit.commands.train_cells import train_cells as command
    from ofa_kit.progress import Terminal

    given = {"genotype": genotype, "macro_arc": macro_arc, "data": data, "epochs": epochs, "device": device}
    values, source = read_values(recipe, given | {"seed": seed}, settings)
    name = run or (Path(recipe).stem if recipe else "")
    if not name:
        raise OfaKitError(
            "no name for the run: give --recipe NAME (profiles/recipes/cells-*.yaml and macro-*.yaml), or --run NAME"
        )
    found = command(values, run_folder(name), source=source, resume=resume, reporter=Terminal())
    show({**found.facts(), "model": str(found.model), "folder": str(found.folder)}, found.measured_lines(), as_json)
