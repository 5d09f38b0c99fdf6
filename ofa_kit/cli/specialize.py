"""The commands that search and export; main.py registers them."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ofa_kit import storage
from ofa_kit.cli.options import TABLES, DeviceOption, JsonOption, RunOption, TablesOption
from ofa_kit.cli.show import open_run, show, show_deployment
from ofa_kit.errors import OfaKitError

ExportOption = Annotated[Path, typer.Option(help="NAME.onnx or a folder.")]
DynamicOption = Annotated[bool, typer.Option("--dynamic-batch", help="Leave the batch size open.")]
PrecisionOption = Annotated[
    Literal["fp32", "fp16", "int8"] | None, typer.Option(help="Precision of the file; default: the device's.")
]
DropOption = Annotated[
    float, typer.Option("--max-accuracy-drop", help="Points of test top-1 that a lower precision may cost.")
]
EmbedOption = Annotated[
    bool, typer.Option("--embed-preprocessing", help="The model takes uint8 images of any size as they are.")
]
AlgorithmName = Literal["guided", "evolution", "coarse-to-fine", "pareto", "local", "exact", "random"]


def specialize(
    run: RunOption = None,
    device: Annotated[
        list[str] | None, typer.Option("--device", help="Device profile; several are met at once. Default: cpu-ort.")
    ] = None,
    latency_ms: Annotated[
        list[float] | None,
        typer.Option(help="Budget for one batch, in milliseconds: one for all devices, or one each."),
    ] = None,
    macs_m: Annotated[float | None, typer.Option(help="Budget in millions of multiply-adds.")] = None,
    params_m: Annotated[float | None, typer.Option(help="Budget in millions of parameters.")] = None,
    model_mb: Annotated[float | None, typer.Option(help="Budget of the fp32 weights, in 10^6 bytes.")] = None,
    peak_memory_mb: Annotated[
        float | None, typer.Option(help="Budget of the feature maps one image needs at once in fp32, in 10^6 bytes.")
    ] = None,
    min_top1: Annotated[
        float | None, typer.Option(help="Find the fastest of at least this validation top-1 in percent.")
    ] = None,
    percentile: Annotated[
        Literal["floor", "50", "90", "99"],
        typer.Option(help="The time that must fit: the floor, or a quantile of wall-clock time."),
    ] = "floor",
    headroom: Annotated[float, typer.Option(help="Percent of the latency budget to leave free.")] = 0.0,
    finetune_epochs: Annotated[
        int, typer.Option(help="Train the subnet alone for so many epochs, taught by the largest; 0 = not.")
    ] = 0,
    fleet: Annotated[
        Path | None, typer.Option(help="YAML list of devices and budgets; --export is then a folder.")
    ] = None,
    algorithm: Annotated[AlgorithmName, typer.Option(help="Search algorithm.")] = "guided",
    precision: PrecisionOption = None,
    max_accuracy_drop: DropOption = 1.0,
    embed_preprocessing: EmbedOption = False,
    export: ExportOption = Path("model.onnx"),
    dynamic_batch: DynamicOption = False,
    seed: Annotated[int, typer.Option(help="Seed of the search.")] = 0,
    tables: TablesOption = TABLES,
    as_json: JsonOption = False,
) -> None:
    """Export the best subnet within a budget.

    Finds it by prediction, measures it on the device, and checks its ONNX against PyTorch.
    """
    if fleet is not None:
        alone = {"--device": device, "--latency-ms": latency_ms, "--macs-m": macs_m, "--min-top1": min_top1}
        if given := [name for name, value in alone.items() if value]:
            raise OfaKitError(f"--fleet names devices and budgets itself: leave out {', '.join(given)}")
        _specialize_fleet(run, fleet, export, algorithm, seed, tables, as_json)
        return
    limits = {"macs_m": macs_m, "params_m": params_m, "model_mb": model_mb, "peak_memory_mb": peak_memory_mb}
    if not latency_ms and min_top1 is None and not any(value is not None for value in limits.values()):
        raise OfaKitError(
            "no budget: give --latency-ms, --macs-m, --params-m, --model-mb, --peak-memory-mb, or --min-top1"
        )

    from ofa_kit.commands.deploy import deployment_paths
    from ofa_kit.commands.deploy_conversion import Conversion
    from ofa_kit.commands.specialize import Specializer
    from ofa_kit.commands.specialize_site import Safety
    from ofa_kit.latency.device import DeviceProfile
    from ofa_kit.progress import Terminal
    from ofa_kit.search.budget import Budget

    devices = [DeviceProfile.load(name) for name in device or ["cpu-ort"]]
    first_ms, *others_ms = _one_each(latency_ms or [math.inf], [found.name for found in devices])
    budget = Budget(
        latency_ms=first_ms,
        other_latencies_ms={found.name: ms for found, ms in zip(devices[1:], others_ms, strict=True)},
        **{name: value for name, value in limits.items() if value is not None},
        min_top1=min_top1,
    )
    if finetune_epochs < 0:
        raise OfaKitError(f"--finetune-epochs must be 0 or more, found {finetune_epochs}")
    safety = Safety(percentile=percentile, headroom=headroom)
    conversion = Conversion(
        precision=precision, max_accuracy_drop=max_accuracy_drop, embed_preprocessing=embed_preprocessing
    )
    storage.writable_folder(deployment_paths(export)[0].parent)
    made = Specializer.open(open_run(run), *devices, tables=tables, reporter=Terminal()).specialize(
        budget,
        export,
        algorithm=algorithm,
        seed=seed,
        safety=safety,
        dynamic_batch=dynamic_batch,
        conversion=conversion,
        finetune_epochs=finetune_epochs,
    )
    show_deployment(made, str(budget), as_json)


def export_arch(
    arch: Annotated[str, typer.Option(help="largest, smallest, or a key of the accuracy or latency table.")],
    run: RunOption = None,
    device: DeviceOption = "cpu-ort",
    precision: PrecisionOption = None,
    max_accuracy_drop: DropOption = 1.0,
    embed_preprocessing: EmbedOption = False,
    export: ExportOption = Path("model.onnx"),
    dynamic_batch: DynamicOption = False,
    tables: TablesOption = TABLES,
    as_json: JsonOption = False,
) -> None:
    """Measure and export one given subnet."""
    from ofa_kit.commands.deploy import deployment_paths
    from ofa_kit.commands.deploy_conversion import Conversion
    from ofa_kit.commands.specialize import Specializer
    from ofa_kit.latency.device import DeviceProfile
    from ofa_kit.progress import Terminal

    conversion = Conversion(
        precision=precision, max_accuracy_drop=max_accuracy_drop, embed_preprocessing=embed_preprocessing
    )
    storage.writable_folder(deployment_paths(export)[0].parent)
    specializer = Specializer.open(open_run(run), DeviceProfile.load(device), tables=tables, reporter=Terminal())
    made = specializer.export(specializer.arch_named(arch), export, dynamic_batch=dynamic_batch, conversion=conversion)
    show_deployment(made, "none", as_json)


def _one_each(values: Sequence[float], devices: Sequence[str]) -> list[float]:
    """Return a latency budget for each device."""
    if len(values) not in (1, len(devices)):
        raise OfaKitError(
            f"{len(values)} times --latency-ms for {len(devices)} devices; give one for all, or one for each"
        )
    if repeated := {name for name in devices if devices.count(name) > 1}:
        raise OfaKitError(f"--device {', '.join(sorted(repeated))} is given twice; name each device once")
    return list(values) * len(devices) if len(values) == 1 else list(values)


def _specialize_fleet(
    run: str | None, fleet: Path, folder: Path, algorithm: Any, seed: int, tables: Path, as_json: bool
) -> None:
    from ofa_kit.commands.specialize_fleet import SUMMARY, read_fleet, specialize_fleet
    from ofa_kit.progress import Terminal

    if folder.suffix:
        raise OfaKitError(f"--fleet writes a folder of deployments: give --export FOLDER, found '{folder}'")
    members = read_fleet(fleet)
    storage.writable_folder(folder)
    rows = specialize_fleet(
        open_run(run), members, folder, algorithm=algorithm, seed=seed, tables=tables, reporter=Terminal()
    )
    text = [
        f"{row['folder']:28} {row['error']}"
        if row["error"]
        else f"{row['folder']:28} arch {row['arch_key']}   "
        f"{row['latency_ms_measured'] or 'not'} ms measured, {row['latency_ms_predicted']} predicted   "
        f"top-1 {row['top1_measured']} % measured, {row['top1_predicted']} predicted"
        for row in rows
    ]
    show({"summary": str(folder / SUMMARY), "rows": rows}, [*text, f"summary: {folder / SUMMARY}"], as_json)
    if failed := [row["folder"] for row in rows if row["error"]]:
        raise OfaKitError(f"{len(failed)} of {len(rows)} budgets were not met: {', '.join(failed)} (why: above)")
