"""`ofa-kit search nas-rl`; whoever makes the group registers it."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ofa_kit.cli.options import JsonOption
from ofa_kit.cli.show import run_folder, show
from ofa_kit.errors import OfaKitError


def nas_rl(
    recipe: Annotated[str | None, typer.Option(help="Recipe: a name such as nas-rl-digits, or a YAML file.")] = None,
    data: Annotated[str | None, typer.Option(help="digits, fashion-mnist, cifar10 or imagefolder:PATH.")] = None,
    run: Annotated[str | None, typer.Option("--run", help="Name of the run, or a folder; default: recipe.")] = None,
    children: Annotated[int | None, typer.Option(help="Networks that are trained from scratch and judged.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes of each child over its training images.")] = None,
    engine: Annotated[
        Literal["processes", "ray"], typer.Option(help="Train children on this machine or on a Ray cluster.")
    ] = "processes",
    processes: Annotated[
        int | None, typer.Option(help="Children at once, a process each; 0: in this process. Default: 1.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Device profile on which every child is timed.")] = None,
    latency_ms: Annotated[
        float | None, typer.Option(help="Target on --device: rewards are multiplied by (latency / target) ^ weight.")
    ] = None,
    latency_weight: Annotated[float | None, typer.Option(help="That exponent; default: -0.07.")] = None,
    latency_hard: Annotated[
        bool | None, typer.Option("--latency-hard", help="No reward beyond the target, the whole within it.")
    ] = None,
    memory_mb: Annotated[int | None, typer.Option(help="A child that takes more MiB has failed; Linux.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the controller and of all children.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any recipe key: --set layers=4")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted search.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Search a network by reinforcement: a controller learns from children trained from scratch (Zoph & Le 2017)."""
    from ofa_kit.cli.values import read_values
    from ofa_kit.commands.search_nas_rl import Training, search_nas_rl
    from ofa_kit.progress import Terminal

    given = {
        "data": data,
        "children": children,
        "epochs": epochs,
        "device": device,
        "latency_target_ms": latency_ms,
        "latency_weight": latency_weight,
        "latency_hard": latency_hard,
        "memory_mb": memory_mb,
        "seed": seed,
    }
    values, source = read_values(recipe, given, settings)
    name = run or (Path(recipe).stem if recipe else "")
    if not name:
        raise OfaKitError("nothing to search with: give --recipe NAME (see profiles/recipes/nas-rl-*.yaml), or --run")
    how = Training(engine=engine, processes=processes)
    found = search_nas_rl(values, run_folder(name), source=source, resume=resume, how=how, reporter=Terminal())
    show(found.facts(), found.lines(), as_json)
