"""What `profile` does for devices that have neither PyTorch nor this package."""

from pathlib import Path
from typing import TYPE_CHECKING

from ofa_kit.cli.show import show
from ofa_kit.errors import OfaKitError

if TYPE_CHECKING:
    from ofa_kit.arch.space import SearchSpace
    from ofa_kit.latency.device import DeviceProfile
    from ofa_kit.latency.table import LatencyTable


def write_bundle(
    device: "DeviceProfile",
    space: "SearchSpace",
    target: Path,
    *,
    resolutions: list[int],
    subnets: int | None,
    as_json: bool,
) -> None:
    """Write a kit and say what to do with it."""
    from ofa_kit.commands.board import bundle

    if target.suffix != ".zip":
        raise OfaKitError(f"--bundle takes a .zip file, found '{target}'")
    made = bundle(device, space, subnets=subnets, resolutions=resolutions, target=target)
    values = {
        "bundle": str(made.path),
        "key": made.key,
        "blocks": made.blocks,
        "subnets": made.subnets,
        "size_bytes": made.size_bytes,
    }
    text = [
        f"bundle: {made.path} ({made.size_bytes / 2**20:.1f} MiB, {made.blocks} blocks, {made.subnets} subnets)",
        f"on the board, with numpy and onnxruntime: unzip {made.path.name} -d kit; python3 kit/run.py",
        "then here: ofa-kit profile --import-results FOLDER (the results that it leaves)",
    ]
    show(values, text, as_json)


def import_results(results: Path, tables: Path, as_json: bool) -> None:
    """Add what a kit measured on a board to its table."""
    from ofa_kit.commands.board import import_board_results

    show_table(import_board_results(results, tables), as_json)


def over_ssh(
    device: "DeviceProfile",
    space: "SearchSpace",
    host: str,
    tables: Path,
    *,
    resolutions: list[int],
    subnets: int | None,
    as_json: bool,
) -> None:
    """Measure on another machine, reached by the system's ssh."""
    from ofa_kit.commands.board import profile_ssh
    from ofa_kit.progress import Terminal

    table = profile_ssh(
        device, space, host, resolutions=resolutions, subnets=subnets, tables=tables, reporter=Terminal()
    )
    show_table(table, as_json)


def show_table(table: "LatencyTable", as_json: bool) -> None:
    """Print what a table measured elsewhere holds."""
    facts = table.provenance.get("machine", {})
    values = {"table": str(table.path), "blocks": len(table.blocks), "subnets": len(table.subnets), "machine": facts}
    where = facts.get("processor", "an unknown processor")
    counts = f"{len(table.blocks)} blocks, {len(table.subnets)} subnets"
    show(values, [f"table: {table.path} ({counts}, measured on {where})"], as_json)
