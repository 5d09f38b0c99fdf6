"""The commands that train a supernet and measure its subnets; main.py registers them."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ofa_kit.cli.options import TABLES, JsonOption, RunOption, TablesOption
from ofa_kit.cli.show import open_run, run_folder, show
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
    as_json: JsonOption = False,
) -> None:
    """Train all subnets of a space in one set of weights.

    Several processes: torchrun --nproc-per-node N -m ofa_kit train-supernet ... --name RUN (torchrun has a --run).
    """
    from ofa_kit.cli.values import read_values
    from ofa_kit.commands.train_supernet import train_supernet as command
    from ofa_kit.progress import Terminal
    from ofa_kit.training.distributed import launched_rank

    given = {"space": space, "data": data, "method": method, "epochs": epochs, "init_from": _weights_of(init_from)}
    values, source = read_values(recipe, given, settings)
    if not values and not resume:
        raise OfaKitError("nothing to train: give --recipe NAME or --space NAME (see `ofa-kit spaces`)")
    name = run or (Path(recipe).stem if recipe else Path(str(values.get("space", ""))).name.removesuffix(".yaml"))
    if not name:
        raise OfaKitError("--resume needs --run NAME")
    done = command(values, run_folder(name), source=source, resume=resume, reporter=Terminal())
    if launched_rank() == 0:
        facts = {"run": str(done.folder), "weights": str(done.weights), "space": done.space.name}
        text = [f"trained: {done.weights}", f"next: ofa-kit profile --device cpu-ort --run {name}"]
        show(facts, text, as_json)


def measure_accuracy(
    run: RunOption = None,
    subnets: Annotated[int, typer.Option(help="Subnets to measure, those measured already included.")] = 40,
    choose: Annotated[
        Literal["spread", "active"],
        typer.Option(help="All over the space; or, after a few of these, those that the predictor learns most from."),
    ] = "spread",
    device: Annotated[
        str | None, typer.Option(help="With --choose active: look for subnets fast on this device, not of few MACs.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the active choice.")] = 0,
    images: Annotated[int | None, typer.Option(help="Measure on so many validation images; default: all.")] = None,
    through: Annotated[
        Literal["pytorch", "onnxruntime"], typer.Option(help="What runs the recalibrated subnets.")
    ] = "pytorch",
    engine: Annotated[Literal["local", "ray"], typer.Option(help="This machine, or a Ray cluster.")] = "local",
    processes: Annotated[
        int | None, typer.Option(help="Local processes of one core each; default: by cores, memory and work.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a table that must be there.")] = False,
    tables: TablesOption = TABLES,
    as_json: JsonOption = False,
) -> None:
    """Measure top-1 of subnets on held-out images.

    Each has its batch norm recalibrated. What is measured already is kept and not repeated.
    """
    from ofa_kit.commands.measure_accuracy import measure_accuracy as command
    from ofa_kit.commands.measure_choice import active_choice
    from ofa_kit.commands.measure_engine import Measuring
    from ofa_kit.progress import Terminal

    for name, value in {"--images": images, "--processes": processes}.items():
        if value is not None and value < 1:
            raise OfaKitError(f"{name} must be at least 1, found {value}; leave it out for the default")
    if device is not None and choose == "spread":
        raise OfaKitError("--device is for --choose active: a spread does not look at latency")
    trained = open_run(run)
    if resume and not trained.accuracy.exists():
        raise OfaKitError(f"nothing to resume: '{trained.accuracy}' is not there; leave out --resume")
    how = Measuring(images=images or 0, runtime=through, engine=engine, processes=processes or 0)
    choice = active_choice(trained, device, tables=tables, seed=seed) if choose == "active" else None
    measured = command(trained, subnets, how=how, choice=choice, reporter=Terminal()).measured.values()
    top1 = [row.top1 for row in measured]
    values = {"table": str(trained.accuracy), "subnets": len(top1), "top1_min": min(top1), "top1_max": max(top1)}
    values |= {"standard_error_max": max(row.standard_error for row in measured)}
    text = [
        f"accuracy: {trained.accuracy} ({len(top1)} subnets, top-1 {min(top1):.2f}..{max(top1):.2f} %, standard error "
        f"up to {values['standard_error_max']:.2f} points, measured)"
    ]
    show(values, text, as_json)


def _weights_of(source: str | None) -> str | None:
    """Return the weights file that --init-from means: a file, or a run by name or folder."""
    if source is None or source.endswith(".safetensors"):
        return source
    return str(run_folder(source) / "supernet.safetensors")
