"""The commands for MIT once-for-all's weights; main.py registers them."""

from pathlib import Path
from typing import Annotated

import typer

from ofa_kit.cli.show import open_run, run_folder, show
from ofa_kit.errors import OfaKitError

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def import_weights(
    file: Annotated[Path, typer.Argument(help="MIT's checkpoint: .pth, .pth.tar or .safetensors.")],
    space: Annotated[str | None, typer.Option(help="Space of the supernet in the file.")] = None,
    run: Annotated[str | None, typer.Option(help="Name or folder of the run to make of a supernet.")] = None,
    data: Annotated[str | None, typer.Option(help="Data to measure accuracy on; default: latency only.")] = None,
    net_config: Annotated[Path | None, typer.Option(help="MIT's net.config: the file is a static network.")] = None,
    resolution: Annotated[int | None, typer.Option(help="Input size of a static network, in pixels.")] = None,
    export: Annotated[Path | None, typer.Option(help="NAME.onnx or a folder, for a static network.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a run of a checkpoint of MIT's once-for-all.

    Or an ONNX model, where the checkpoint is a static network.
    """
    if net_config is None:
        if space is None or run is None or resolution is not None or export is not None:
            raise OfaKitError("a supernet needs --space and --run; a static network --net-config with its own options")
        _import_supernet(file, space, run, data, as_json)
    else:
        if resolution is None or export is None or space is not None or run is not None or data is not None:
            raise OfaKitError("a static network needs --net-config, --resolution and --export, and nothing else")
        _import_subnet(file, net_config, resolution, export, as_json)


def export_weights(
    out: Annotated[Path, typer.Option(help="File to write: .pth, .pth.tar or .safetensors.")],
    run: Annotated[str | None, typer.Option("--run", help="Run name or folder; default: the newest.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a run's supernet for MIT's once-for-all."""
    from ofa_kit.commands.import_weights import export_weights as command

    opened = open_run(run)
    command(opened, out)
    text = [f"weights: {out} ({opened.space.name})"]
    if opened.info.in_channels != 3:
        text.append(f"note: MIT's networks take 3 channels, this one takes {opened.info.in_channels}")
    show({"weights": str(out), "space": opened.space.name, "in_channels": opened.info.in_channels}, text, as_json)


def _import_supernet(file: Path, space: str, run: str, data: str | None, as_json: bool) -> None:
    from ofa_kit.commands.import_weights import import_supernet as command

    made = command(file, space, run_folder(run), data=data)
    values = {"run": made.name, "weights": str(made.weights), "space": made.space.name, "data": made.info.data}
    quiet = " --no-accuracy" if data is None else ""
    text = [
        f"imported: {made.weights} ({made.space.name}, {made.info.num_classes} classes)",
        f"next: ofa-kit profile --device cpu-ort --run {run}{quiet}",
    ]
    show(values, text, as_json)


def _import_subnet(file: Path, net_config: Path, resolution: int, export: Path, as_json: bool) -> None:
    from ofa_kit.commands.import_weights import import_subnet as command

    made = command(file, net_config, resolution, export)
    values = {
        "model": str(made.model_path),
        "space": made.space.name,
        "arch": str(made.arch),
        "max_relative_difference": made.max_relative_difference,
    }
    text = [
        f"model  {made.model_path}   arch {made.arch.key} of {made.space.name}",
        f"arch   {made.arch}",
        f"logits in ONNX Runtime differ from PyTorch by {made.max_relative_difference:.1e} on images of noise",
    ]
    show(values, text, as_json)
