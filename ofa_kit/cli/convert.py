"""The command that makes a supernet of a user's network; main.py registers it."""

from pathlib import Path
from typing import Annotated

import typer

from ofa_kit.cli.show import run_folder, show
from ofa_kit.errors import ConvertError


def convert(
    model: Annotated[str, typer.Argument(help="torchvision:NAME, or package.module:function that returns a network.")],
    run: Annotated[str, typer.Option("--run", help="Name or folder of what is written.")],
    resolutions: Annotated[str, typer.Option(help="Input sizes in pixels; the model's own is the largest.")] = (
        "160,192,224"
    ),
    weights: Annotated[Path | None, typer.Option(help="The model's weights: .pth or .safetensors.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Make a supernet of a trained network.

    Its largest subnet computes exactly what the network does.
    """
    try:
        sizes = [int(word) for word in resolutions.split(",")]
    except ValueError:
        raise ConvertError(f"--resolutions takes sizes in pixels, as 160,192,224, found '{resolutions}'") from None

    from ofa_kit.commands.convert import convert_model as command

    made = command(model, run_folder(run), resolutions=sizes, weights=weights)
    low, high = made.macs_m
    difference, rounding = made.converted.max_relative_difference, made.converted.float32_difference
    values = {
        "space": made.space.name,
        "space_file": str(made.space_path),
        "weights": str(made.weights_path),
        "subnets": made.space.size(),
        "macs_m": [low, high],
        "max_relative_difference": difference,
        "float32_difference": rounding,
    }
    text = [
        f"space    {made.space_path}   {made.space.name}, {made.space.size():.3g} subnets, {len(made.space.stages)} "
        f"stages, {low:.1f}..{high:.1f} M MACs",
        f"weights  {made.weights_path}",
        f"proof    logits of the largest subnet differ from the model's by {difference:.1e} in float64, by "
        f"{rounding:.1e} in float32 (rounding), on images of noise",
        f"next: ofa-kit train-supernet --space {made.space_path} --init-from {made.weights_path} --run {run}-trained",
    ]
    if weights is None and model.startswith("torchvision:"):
        text.append("note: without --weights the model's weights are random")
    show(values, text, as_json)
