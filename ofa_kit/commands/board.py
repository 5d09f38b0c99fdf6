"""board: latency tables of devices that have neither PyTorch nor this package, by a kit that is carried there."""

from collections.abc import Sequence
from pathlib import Path

from ofa_kit.arch.selection import spread_subnets
from ofa_kit.arch.space import SearchSpace
from ofa_kit.commands.profile import (
    BLOCK_RUNS,
    CHUNK,
    TABLES,
    at_resolutions,
)
from ofa_kit.latency.board.bundle import Bundle, Plan, write_bundle
from ofa_kit.latency.board.import_results import import_results
from ofa_kit.latency.board.ssh import profile_over_ssh
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.latency.side_by_side import REFERENCE_TOLERANCE
from ofa_kit.latency.table import LatencyTable
from ofa_kit.predictors.latency import MINIMUM
from ofa_kit.progress import Reporter

KITS = Path("kits")
PLAN = Plan(
    block_runs=BLOCK_RUNS,
    chunk=CHUNK,
    reference_tolerance=REFERENCE_TOLERANCE,
)


def bundle(
    device: DeviceProfile,
    space: SearchSpace,
    *,
    subnets: int | None = None,
    resolutions: Sequence[int] | None = None,
    target: Path,
) -> Bundle:
    """Write the kit that measures on a board what `profile` measures here."""
    part = at_resolutions(space, resolutions)
    chosen = spread_subnets(part, max(subnets or device.subnets, MINIMUM))
    return write_bundle(target, device, space, chosen, part.resolutions, PLAN)


def import_board_results(results: Path, tables: Path = TABLES) -> LatencyTable:
    """Add the results that a kit left on a board (folder, zip or CSV file) to their latency table."""
    return import_results(results, tables)


def profile_ssh(
    device: DeviceProfile,
    space: SearchSpace,
    host: str,
    *,
    python: str = "python3",
    subnets: int | None = None,
    resolutions: Sequence[int] | None = None,
    kits: Path = KITS,
    tables: Path = TABLES,
    reporter: Reporter | None = None,
) -> LatencyTable:
    """Make a kit, run it on `host` and add its results to the table; after an interruption the same call goes on."""
    target = kits / f"{device.name}-{space.name}.zip"
    made = bundle(device, space, subnets=subnets, resolutions=resolutions, target=target)
    results = kits / f"{device.name}-{space.name}-{made.key}"
    profile_over_ssh(host, target, python, results=results, reporter=reporter)
    return import_results(results, tables)
