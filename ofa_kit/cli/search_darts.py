"""`ofa-kit search darts`; whoever makes the group registers it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ofa_kit.cli.options import JsonOption
from ofa_kit.cli.show import run_folder, show
from ofa_kit.errors import OfaKitError

if TYPE_CHECKING:
    from ofa_kit.commands.cells_found import CellsFound


def darts(
    recipe: Annotated[str | None, typer.Option(help="Recipe: a name such as darts-small, or a YAML file.")] = None,
    data: Annotated[str | None, typer.Option(help="digits, fashion-mnist, cifar10 or imagefolder:PATH.")] = None,
    run: Annotated[str | None, typer.Option("--run", help="Name of the run, or a folder; default: recipe.")] = None,
    order: Annotated[
        Literal["first", "second", "exact"] | None,
        typer.Option(help="Gradient of the alphas: weights held; one step of theirs looked through; exactly so."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the images of the weights.")] = None,
    device: Annotated[
        str | None, typer.Option(help="Device profile on which operations and the result are timed.")
    ] = None,
    latency_weight: Annotated[
        float | None, typer.Option(help="Loss for each ms of expected latency, or for exceeding the target by itself.")
    ] = None,
    latency_ms: Annotated[float | None, typer.Option(help="Target of the expected latency on --device.")] = None,
    partial_channels: Annotated[int | None, typer.Option(help="Mix one in so many channels (PC-DARTS).")] = None,
    max_skips: Annotated[
        int | None, typer.Option(help="Stop before the normal cell has more skip-connections.")
    ] = None,
    selection: Annotated[
        Literal["shares", "perturbation"] | None,
        typer.Option(help="Derive cells by the largest shares, or by what the network misses most (DARTS-PT)."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, alphas, halves and batches.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any recipe key: --set channels=8")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted search.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Search two cells by gradients through a mixture of all operations (Liu et al. 2019)."""
    from ofa_kit.cli.values import read_values
    from ofa_kit.commands.search_darts import search_darts
    from ofa_kit.progress import Terminal

    given = {
        "data": data,
        "order": order,
        "epochs": epochs,
        "device": device,
        "latency_weight": latency_weight,
        "latency_target_ms": latency_ms,
        "partial_channels": partial_channels,
        "max_skips": max_skips,
        "selection": selection,
        "seed": seed,
    }
    values, source = read_values(recipe, given, settings)
    name = run or (Path(recipe).stem if recipe else "")
    if not name:
        raise OfaKitError(
            "nothing to search with: give --recipe NAME (see profiles/recipes/darts-*.yaml), or --run NAME"
        )
    found = search_darts(values, run_folder(name), source=source, resume=resume, reporter=Terminal())
    show_cells(found, "genotype.txt, pictures of the cells, search.csv, shares.csv", as_json)


def show_cells(found: "CellsFound", files: str, as_json: bool, *, arc: str = "") -> None:
    """Print what a search of cells found; `arc` is ENAS's form of the genotype."""
    from dataclasses import asdict

    from ofa_kit.nas.cells.text import write_genotype

    shape, latency = found.shape, found.latency
    text = [
        f"genotype  {write_genotype(found.genotype)}",
        *([f"arc       {arc}"] if arc else []),
        f"network   {shape.cells} cells, {shape.channels} channels: {found.params:,} parameters, {found.macs:,} MACs",
        f"epochs    {found.epochs}",
        f"files     {found.folder}: {files}",
    ]
    if latency is not None:
        text.insert(
            -2, f"latency   {latency.latency_ms:.4f} ms measured, {found.latency_ms_predicted:.4f} ms predicted"
        )
    layout = "" if shape.layout == "darts" else f" --set layout={shape.layout}"
    text.append(f"next: ofa-kit train-cells --genotype {found.folder}/genotype.txt --recipe cells-small{layout}")
    facts = {
        "genotype": write_genotype(found.genotype),
        **({"arc": arc} if arc else {}),
        "params": found.params,
        "macs": found.macs,
        "epochs": found.epochs,
        "measured": asdict(latency) if latency else None,
        "predicted": {"latency_ms": found.latency_ms_predicted},
        "folder": str(found.folder),
    }
    show(facts, text, as_json)
