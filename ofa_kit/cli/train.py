"""The command that trains; main.py registers it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ofa_kit.cli.show import run_folder
from ofa_kit.errors import OfaKitError


def train_supernet(
    recipe: Annotated[str | None, typer.Option(help="Recipe: a name or a YAML file.")] = None,
    space: Annotated[str | None, typer.Option(help="Search space, see `ofa-kit spaces`, or a space file.")] = None,
    data: Annotated[str | None, typer.Option(help="digits, fashion-mnist, cifar10 or imagefolder:PATH.")] = None,
    method: Annotated[str | None, typer.Option(help="sandwich, progressive-shrinking or single-path.")] = None,
    run: Annotated[
        str | None, typer.Option("--run", "--name", help="Name of the run, or a folder; default: recipe or space.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    init_from: Annotated[str | None, typer.Option(help="Start from the weights of a run or .safetensors file.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any recipe key: --set lr=0.2")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
) -> None:
    """Train all subnets of a space in one set of weights.

    Several processes: torchrun --nproc-per-node N -m ofa_kit train-supernet ... --name RUN (torchrun has a --run).
    """
    from ofa_kit.commands.train_supernet import train_supernet as command
    from ofa_kit.config import find_profile, read_yaml
    from ofa_kit.progress import Terminal
    from ofa_kit.training.distributed import launched_rank
    from ofa_kit.training.recipe import with_settings

    values: dict[str, Any] = {}
    source = "command line"
    if recipe:
        path = find_profile("recipes", "recipe", recipe)
        values, source = read_yaml(path), str(path)
    given = {"space": space, "data": data, "method": method, "epochs": epochs, "init_from": _weights_of(init_from)}
    values |= {key: value for key, value in given.items() if value is not None}
    values = with_settings(values, settings or [])
    if not values and not resume:
        raise OfaKitError("nothing to train: give --recipe NAME or --space NAME (see `ofa-kit spaces`)")
    name = run or (Path(recipe).stem if recipe else Path(str(values.get("space", ""))).name.removesuffix(".yaml"))
    if not name:
        raise OfaKitError("--resume needs --run NAME")
    done = command(values, run_folder(name), source=source, resume=resume, reporter=Terminal())
    if launched_rank() == 0:
        typer.echo(f"trained: {done.weights}")
        typer.echo(f"next: ofa-kit profile --device cpu-ort --run {name}")


def _weights_of(source: str | None) -> str | None:
    """Return the weights file that --init-from means: a file, or a run by name or folder."""
    if source is None or source.endswith(".safetensors"):
        return source
    return str(run_folder(source) / "supernet.safetensors")
