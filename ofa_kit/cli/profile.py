"""The command that measures latency tables; main.py registers it."""

from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ofa_kit.cli.options import TABLES, DeviceOption, JsonOption, TablesOption
from ofa_kit.cli.show import open_run, show
from ofa_kit.errors import OfaKitError

if TYPE_CHECKING:
    from ofa_kit.commands.profile import Profiled
    from ofa_kit.latency.device import DeviceProfile

CV_WARNING = 0.01
"""Spread of a GPU's own times above which its clocks were probably not steady."""


def profile(
    device: DeviceOption = "cpu-ort",
    run: Annotated[str | None, typer.Option("--run", help="Run whose space is profiled.")] = None,
    space: Annotated[str | None, typer.Option("--space", help="Space to profile, without a run.")] = None,
    resolutions: Annotated[str | None, typer.Option(help="Only these, such as 160,224; default: all.")] = None,
    subnets: Annotated[int | None, typer.Option(help="Whole subnets to time; default: the device profile's.")] = None,
    accuracy: Annotated[bool, typer.Option(help="Also measure top-1 of subnets of the run.")] = True,
    accuracy_subnets: Annotated[int, typer.Option(help="Subnets whose top-1 is measured.")] = 40,
    check: Annotated[bool, typer.Option("--check", help="Measure a few rows again: does the table hold?")] = False,
    bundle: Annotated[Path | None, typer.Option(help="Write a kit.zip that measures on a board instead.")] = None,
    results: Annotated[
        Path | None, typer.Option("--import-results", help="Bring back what such a kit measured.")
    ] = None,
    ssh: Annotated[str | None, typer.Option(metavar="USER@HOST", help="Measure there, by the system's ssh.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a table that must be there.")] = False,
    tables: TablesOption = TABLES,
    as_json: JsonOption = False,
) -> None:
    """Measure the latency table of a space on a device.

    What is measured already is kept.
    """
    from ofa_kit.arch.space_file import find_space
    from ofa_kit.cli import board
    from ofa_kit.latency.device import DeviceProfile

    _refuse_together({"--check": check, "--bundle": bundle, "--import-results": results, "--ssh": ssh})
    if results is not None:
        board.import_results(results, tables, as_json)
        return
    if (run is None) == (space is None):
        raise OfaKitError("profile needs either --run NAME (a trained run) or --space NAME")
    if subnets is not None and subnets < 4:
        raise OfaKitError(f"--subnets must be at least 4 to calibrate the table, found {subnets}")
    target = DeviceProfile.load(device)
    trained = open_run(run) if run is not None else None
    chosen = trained.space if trained else find_space(str(space))
    pixels = _pixels(resolutions)
    if check:
        _check(target, chosen, tables, as_json)
    elif bundle is not None:
        board.write_bundle(target, chosen, bundle, resolutions=pixels, subnets=subnets, as_json=as_json)
    elif ssh is not None:
        board.over_ssh(target, chosen, ssh, tables, resolutions=pixels, subnets=subnets, as_json=as_json)
    else:
        if resume:
            from ofa_kit.latency.table import LatencyTable

            LatencyTable.open(tables, target, chosen)
        measured = accuracy_subnets if trained and accuracy else 0
        _measure(target, chosen, trained, pixels, subnets, measured, tables, as_json)


def _measure(
    device: Any,
    space: Any,
    trained: Any,
    resolutions: list[int],
    subnets: int | None,
    accuracy_subnets: int,
    tables: Path,
    as_json: bool,
) -> None:
    from ofa_kit.commands.profile import profile as command
    from ofa_kit.progress import Terminal

    reporter = Terminal()
    if accuracy_subnets:
        from ofa_kit.commands.measure_accuracy import require_data

        require_data(trained)
    profiled = command(device, space, resolutions=resolutions, subnets=subnets, tables=tables, reporter=reporter)
    values, text = _summary(device, profiled)
    if accuracy_subnets:
        from ofa_kit.commands.measure_accuracy import measure_accuracy as measure

        rows = measure(trained, accuracy_subnets, reporter=reporter).rows
        values |= {"accuracy": str(trained.accuracy), "accuracy_subnets": len(rows)}
        text.append(f"accuracy: {trained.accuracy} ({len(rows)} subnets measured)")
    show(values, text, as_json)


def _summary(device: "DeviceProfile", profiled: "Profiled") -> tuple[dict[str, object], list[str]]:
    table, predictor = profiled.table, profiled.predictor
    blocks, timed = len(table.blocks), len(table.subnets)
    unsteady = sum(not found.converged for _, found in table.subnets.values())
    values: dict[str, object] = {
        "table": str(table.path),
        "blocks": blocks,
        "subnets": timed,
        "not_converged": unsteady,
    }
    values |= {"predictor": predictor.name, **predictor.held_out}
    text = [
        f"table: {table.path} ({blocks} blocks, {timed} subnets measured, {unsteady} of them not converged)",
        f"latency predictor: {predictor.quality}",
    ]
    spread = median([found.cv for _, found in table.subnets.values()] or [0.0])
    if not device.on_cpu and spread > CV_WARNING:
        text.append(
            f"warning: times on the GPU spread by {100 * spread:.1f} % (median CV): lock its clocks "
            "(`nvidia-smi -lgc`), let it cool, then profile into a new table"
        )
    return values, text


def _check(device: Any, space: Any, tables: Path, as_json: bool) -> None:
    from ofa_kit.commands.check_table import check_table, refuse_stale
    from ofa_kit.progress import Terminal

    checked = check_table(device, space, tables=tables, reporter=Terminal())
    rows = zip(checked.keys, checked.stored_ms, checked.now_ms, strict=True)
    text = [f"{key}  stored {then:.4f} ms  now {now:.4f} ms  x{now / then:.3f} (measured)" for key, then, now in rows]
    text.append(
        f"reference kernel x{checked.reference_ratio:.3f}; {'; '.join(checked.changed_versions) or 'versions as then'}"
    )
    values = asdict(checked) | {"ratio": checked.ratio, "worst": checked.worst, "holds": checked.holds}
    show(values, [*text, f"median x{checked.ratio:.3f}: {'the table holds' if checked.holds else 'STALE'}"], as_json)
    refuse_stale(checked, tables / device.table_folder / f"{space.name}.csv")


def _pixels(text: str | None) -> list[int]:
    if text is None:
        return []
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise OfaKitError(f"--resolutions takes pixels such as 160,224, found '{text}'") from error


def _refuse_together(asked: dict[str, object]) -> None:
    given = [name for name, value in asked.items() if value]
    if len(given) > 1:
        raise OfaKitError(f"{' and '.join(given)} are different tasks; give one of them")
