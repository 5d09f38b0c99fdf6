"""The command that trains one architecture alone; main.py registers it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ofa_kit import storage
from ofa_kit.cli.options import TABLES, DeviceOption, JsonOption, TablesOption
from ofa_kit.cli.show import deployment_lines, deployment_values, open_run, run_folder, show
from ofa_kit.cli.specialize import DropOption, DynamicOption, EmbedOption, PrecisionOption
from ofa_kit.errors import OfaKitError

if TYPE_CHECKING:
    from ofa_kit.commands.train_arch import Wanted
    from ofa_kit.latency.device import DeviceProfile


def train_arch(
    run: Annotated[
        str | None, typer.Option("--run", help="Run whose space the architecture is of; its recipe is the default.")
    ] = None,
    space: Annotated[str | None, typer.Option(help="Instead: a space, see `ofa-kit spaces`, or a space file.")] = None,
    arch: Annotated[
        str | None,
        typer.Option(help="largest, smallest, a key of the run's tables, JSON or SPOS's numbers, or FILE.json."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="Recipe: a name or a YAML file; neither its space counts nor, with --run, its data."),
    ] = None,
    data: Annotated[str | None, typer.Option(help="digits, fashion-mnist, cifar10 or imagefolder:PATH.")] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name or folder of the run to make; default: RUN/alone/KEY, or SPACE-KEY without --run."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any recipe key: --set lr=0.2")] = None,
    device: DeviceOption = "cpu-ort",
    precision: PrecisionOption = None,
    max_accuracy_drop: DropOption = 1.0,
    embed_preprocessing: EmbedOption = False,
    export: Annotated[
        Path | None, typer.Option(help="NAME.onnx or a folder; default: model.onnx in the run's folder.")
    ] = None,
    dynamic_batch: DynamicOption = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    tables: TablesOption = TABLES,
    as_json: JsonOption = False,
) -> None:
    """Train one architecture alone from scratch.

    Then its top-1 and latency are measured, and its ONNX is checked against PyTorch.
    """
    if run is not None and space is not None:
        raise OfaKitError("--run and --space both say what the architecture is of; give one of them")
    if arch is None and not (resume and name):
        raise OfaKitError("nothing to train: give --run NAME or --space NAME with --arch, or --name NAME --resume")
    if arch is not None and run is None and space is None:
        raise OfaKitError("--arch needs the space that it is of: give --run NAME or --space NAME")

    from ofa_kit.commands.deploy import deployment_paths
    from ofa_kit.commands.deploy_conversion import Conversion
    from ofa_kit.commands.train_arch import export_trained
    from ofa_kit.commands.train_arch import train_arch as command
    from ofa_kit.config import find_profile, read_yaml
    from ofa_kit.latency.backends import backend_for
    from ofa_kit.latency.device import DeviceProfile
    from ofa_kit.progress import Terminal
    from ofa_kit.training.distributed import launched_rank
    from ofa_kit.training.recipe import with_settings

    target = DeviceProfile.load(device)
    backend_for(target)  # what is missing is better known before the training than after it
    conversion = Conversion(
        precision=precision, max_accuracy_drop=max_accuracy_drop, embed_preprocessing=embed_preprocessing
    )
    changes = {key: value for key, value in {"data": data, "epochs": epochs}.items() if value is not None}
    changes = with_settings(changes, settings or [])
    given = read_yaml(find_profile("recipes", "recipe", recipe)) if recipe else None
    wanted = _wanted(run, space, arch, target, tables)
    folder = wanted.folder if wanted and not name else run_folder(str(name))
    if export is not None:
        storage.writable_folder(deployment_paths(export)[0].parent)
    trained = command(wanted, folder, recipe=given, changes=changes, resume=resume, reporter=Terminal())
    if launched_rank() != 0:
        return
    model = export or folder / "model.onnx"
    made = export_trained(trained, model, device=target, dynamic_batch=dynamic_batch, conversion=conversion)
    values = {"run": str(folder), **deployment_values(made)}
    text = [f"trained  {trained.weights}   alone, for {trained.recipe.epochs} epochs"]
    if wanted and wanted.shared_top1 is not None:
        values["shared_top1"] = wanted.shared_top1
        text.append(f"shared   top-1 {wanted.shared_top1:.2f} % validation with the supernet's weights (measured)")
    show(values, [*text, *deployment_lines(made, "none")], as_json)


def _wanted(
    run: str | None, space: str | None, arch: str | None, device: "DeviceProfile", tables: Path
) -> "Wanted | None":
    """Return what the options name, by each way of naming it; None where a run is only gone on with."""
    from ofa_kit.commands.train_arch import wanted_of_run, wanted_of_space

    if arch is None:
        return None
    if space is not None:
        return wanted_of_space(space, arch, Path("runs"))
    return wanted_of_run(open_run(run), arch, device=device, tables=tables)
