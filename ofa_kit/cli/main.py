"""The command line: signatures, help and exit codes. Heavy imports stand inside the commands."""

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from ofa_kit import __version__
from ofa_kit.cli.convert import convert
from ofa_kit.cli.options import JsonOption
from ofa_kit.cli.pareto import pareto
from ofa_kit.cli.profile import profile
from ofa_kit.cli.report import report
from ofa_kit.cli.search import app as search
from ofa_kit.cli.show import show
from ofa_kit.cli.specialize import export_arch, specialize
from ofa_kit.cli.table import app as table
from ofa_kit.cli.train import measure_accuracy, train_supernet
from ofa_kit.cli.train_arch import train_arch
from ofa_kit.cli.train_cells import train_cells
from ofa_kit.cli.weights import export_weights, import_weights
from ofa_kit.errors import OfaKitError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Train a supernet once, profile each device, specialize under a latency budget, export proven ONNX.",
)


def main() -> NoReturn:
    """Run the command line: user errors end with one line and exit code 2."""
    try:
        app()
    except OfaKitError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        typer.echo(
            f"error: {error.filename or 'file system'}: {error.strerror or error}; mend it and run again", err=True
        )
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def demo(
    folder: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo"),
    as_json: JsonOption = False,
) -> None:
    """Go the whole way on embedded digits.

    Trains, profiles this CPU, specializes for three budgets.
    """
    from ofa_kit.commands.demo import demo as command
    from ofa_kit.commands.demo import summary_values
    from ofa_kit.progress import Terminal

    found = command(folder, reporter=Terminal())
    text = (folder / "summary.md").read_text(encoding="utf-8").splitlines()
    show(
        summary_values(found),
        [*text, "", f"models: {folder / 'models'}", f"table: {found.profiled.table.path}"],
        as_json,
    )


def spaces(as_json: JsonOption = False) -> None:
    """List the search spaces."""
    from ofa_kit.arch.layers import macs, params
    from ofa_kit.arch.presets import PRESETS

    values, text = {}, []
    for name, space in PRESETS.items():
        ends = [space.smallest(), space.largest()]
        low, high = (macs(space, arch) / 1e6 for arch in ends)
        sizes = [params(space, arch) / 1e6 for arch in ends]
        pixels = f"{min(space.resolutions)}..{max(space.resolutions)}"
        values[name] = {
            "subnets": space.size(),
            "resolutions": space.resolutions,
            "macs_m": [low, high],
            "params_m": sizes,
        }
        text.append(
            f"{name:26} {space.size():>9.3g} subnets  {pixels:>8} px  {low:7.1f}..{high:<7.1f} M MACs  "
            f"{sizes[0]:5.2f}..{sizes[1]:<5.2f} M params"
        )
    show(values, text, as_json)


def devices(as_json: JsonOption = False) -> None:
    """List the device profiles."""
    from dataclasses import asdict

    from ofa_kit.latency.device import DeviceProfile, device_names

    found = [DeviceProfile.load(name) for name in device_names()]
    text = [f"{d.name:18} {d.backend:12} {d.precision} batch {d.batch:<3} {d.description}" for d in found]
    show({d.name: asdict(d) for d in found}, text, as_json)


def doctor(as_json: JsonOption = False) -> None:
    """Show what this machine has and could run."""
    from ofa_kit.commands.doctor import doctor as command

    found = command()
    text = [
        line for name, facts in found.items() for line in (f"{name}:", *(f"  {k:18} {v}" for k, v in facts.items()))
    ]
    show(found, text, as_json)


app.command()(train_supernet)
app.command()(profile)
app.command()(measure_accuracy)
app.command()(specialize)
app.command("export")(export_arch)
app.add_typer(search, name="search")
app.command()(train_arch)
app.command()(train_cells)
app.add_typer(table, name="table")
app.command()(pareto)
app.command()(report)
app.command()(convert)
app.command()(import_weights)
app.command()(export_weights)
app.command()(spaces)
app.command()(devices)
app.command()(doctor)
app.command()(demo)
