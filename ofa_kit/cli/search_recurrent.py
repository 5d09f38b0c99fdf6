"""The command that searches recurrent cells; the group `ofa-kit search` registers it."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ofa_kit.cli.options import JsonOption
from ofa_kit.cli.show import run_folder, show
from ofa_kit.errors import OfaKitError


def darts_rnn(
    recipe: Annotated[str | None, typer.Option(help="Recipe: a name or a YAML file; default: sonnets.")] = None,
    data: Annotated[str | None, typer.Option(help="sonnets, shakespeare or text:PATH (a file or a folder).")] = None,
    level: Annotated[Literal["word", "whitespace", "character"] | None, typer.Option(help="What a token is.")] = None,
    run: Annotated[
        str | None, typer.Option("--run", "--name", help="Name of the run, or a folder; default: the recipe's.")
    ] = None,
    genotype: Annotated[
        str | None, typer.Option(help="Train this cell instead of searching: a preset, a text or a file.")
    ] = None,
    order: Annotated[Literal["first", "second", "exact"] | None, typer.Option(help="Gradient of the alphas.")] = None,
    lstm: Annotated[bool, typer.Option("--lstm/--no-lstm", help="Train an LSTM of the same size beside it.")] = True,
    device: Annotated[str | None, typer.Option(help="Time one token on this device profile.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any recipe key: --set search.epochs=3")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Search a recurrent cell by DARTS, and train it.

    Its language model is trained from scratch, beside an LSTM of the same size, exported to ONNX and compared there.
    """
    from ofa_kit.commands.search_recurrent import search_recurrent
    from ofa_kit.latency.device import DeviceProfile
    from ofa_kit.nas.recurrent.any_cell import find_cell
    from ofa_kit.nas.recurrent.recipe import nested, read_recipe
    from ofa_kit.progress import Terminal
    from ofa_kit.training.recipe import with_settings

    values: dict[str, Any] = {}
    source = "command line"
    if recipe or not resume:
        values, source = read_recipe(recipe or "sonnets")
    elif not run:
        raise OfaKitError("--resume needs --run NAME or the recipe")
    given = {"data": data, "level": level, "seed": seed, "search.order": order}
    given = {key: value for key, value in given.items() if value is not None}
    given |= with_settings({}, settings or [])
    if given and not values:
        raise OfaKitError(f"--resume takes the run's own recipe: leave out {', '.join(given)}")
    name = run or Path(recipe or "sonnets").stem
    found = search_recurrent(
        nested(values, given),
        run_folder(name),
        source=source,
        resume=resume,
        genotype=find_cell(genotype) if genotype else None,
        lstm=lstm,
        device=DeviceProfile.load(device) if device else None,
        reporter=Terminal(),
    )
    show(found.facts(), found.lines(), as_json)
