"""`ofa-kit search enas`; whoever makes the group registers it."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ofa_kit.cli.options import JsonOption
from ofa_kit.cli.search_darts import show_cells
from ofa_kit.cli.show import run_folder, show
from ofa_kit.errors import OfaKitError


def enas(
    kind: Annotated[
        Literal["micro", "macro", "recurrent"] | None,
        typer.Option(help="What is searched: two cells of images, a whole network, or a recurrent cell of text."),
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="Recipe: a name such as enas-micro-small, or a YAML file.")] = None,
    data: Annotated[
        str | None, typer.Option(help="digits, cifar10, imagefolder:PATH, ...; recurrent: text:PATH.")
    ] = None,
    run: Annotated[str | None, typer.Option("--run", help="Name of the run, or a folder; default: recipe.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Rounds of training shared weights and then controller.")] = None,
    device: Annotated[
        str | None, typer.Option(help="Device profile on which operations and the result are timed.")
    ] = None,
    latency_ms: Annotated[
        float | None, typer.Option(help="Target on --device; accuracy is multiplied by (predicted / target) ** weight.")
    ] = None,
    latency_weight: Annotated[float | None, typer.Option(help="That exponent, below 0; default: -0.07.")] = None,
    latency_hard: Annotated[
        bool | None, typer.Option("--latency-hard", help="No reward for what is predicted above the target.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, samples and batches.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any recipe key: --set channels=8")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted search.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Search by a controller whose samples share the weights of one network (ENAS, Pham et al. 2018)."""
    from ofa_kit.cli.values import read_values
    from ofa_kit.commands.cells_found import CellsFound
    from ofa_kit.commands.search_enas import search_enas
    from ofa_kit.nas.cells.arc import write_arc
    from ofa_kit.progress import Terminal

    given = {
        "kind": kind,
        "data": data,
        "epochs": epochs,
        "device": device,
        "latency_target_ms": latency_ms,
        "latency_weight": latency_weight,
        "latency_hard": latency_hard,
        "seed": seed,
    }
    values, source = read_values(recipe, given, settings)
    name = run or (Path(recipe).stem if recipe else "")
    if not name:
        raise OfaKitError(
            "nothing to search with: give --recipe NAME (see profiles/recipes/enas-*.yaml), or --kind and --run NAME"
        )
    found = search_enas(values, run_folder(name), source=source, resume=resume, reporter=Terminal())
    if not isinstance(found, CellsFound):
        show(found.facts(), found.lines(), as_json)
        return
    files = "genotype.txt, arc.txt, pictures of the cells, search.csv, derived.csv"
    show_cells(found, files, as_json, arc=write_arc(found.genotype))
