"""The command group `search`: searchers that measure or train what they judge; main.py registers it."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ofa_kit import storage
from ofa_kit.cli.options import TABLES, JsonOption, RunOption, TablesOption
from ofa_kit.cli.search_darts import darts
from ofa_kit.cli.search_enas import enas
from ofa_kit.cli.search_nas_rl import nas_rl
from ofa_kit.cli.search_recurrent import darts_rnn
from ofa_kit.cli.show import deployment_lines, deployment_values, open_run, show
from ofa_kit.cli.specialize import DropOption, DynamicOption, EmbedOption, PrecisionOption
from ofa_kit.errors import OfaKitError

if TYPE_CHECKING:
    from ofa_kit.commands.search_spos import SposFound
    from ofa_kit.commands.spos_log import SposCandidate

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Search by measuring (SPOS), by gradients (DARTS: cells of images or text), or by a controller that learns by "
    "reinforcement: with shared weights (ENAS) or children of their own (NAS-RL).",
)
app.command()(darts)
app.command()(enas)
app.command("darts-rnn")(darts_rnn)
app.command("nas-rl")(nas_rl)


@app.command()
def spos(
    run: RunOption = None,
    device: Annotated[
        str | None, typer.Option("--device", help="Profiled device of --latency-ms; it also decides the export.")
    ] = None,
    latency_ms: Annotated[float | None, typer.Option(help="Budget for one batch, in milliseconds.")] = None,
    macs_m: Annotated[float | None, typer.Option(help="Budget in millions of multiply-adds.")] = None,
    params_m: Annotated[float | None, typer.Option(help="Budget in millions of parameters.")] = None,
    bit_ops_g: Annotated[
        float | None,
        typer.Option(help="Budget in 10^9 bit operations: multiply-adds times the bits of both factors."),
    ] = None,
    population: Annotated[int, typer.Option(help="Candidates of a generation.")] = 50,
    generations: Annotated[int, typer.Option(help="Generations, the random first one included.")] = 20,
    parents: Annotated[int, typer.Option(help="Best candidates so far that mutations and crossovers start from.")] = 10,
    mutations: Annotated[
        int | None, typer.Option(help="Mutations of a generation; default: half of the population.")
    ] = None,
    crossovers: Annotated[
        int | None, typer.Option(help="Crossovers of a generation; default: half of the population.")
    ] = None,
    mutation_probability: Annotated[float, typer.Option(help="Chance of each gene to be drawn again.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Seed of the search.")] = 0,
    images: Annotated[int | None, typer.Option(help="Measure on so many validation images; default: all.")] = None,
    through: Annotated[
        Literal["pytorch", "onnxruntime"], typer.Option(help="What runs the recalibrated subnets.")
    ] = "pytorch",
    engine: Annotated[Literal["local", "ray"], typer.Option(help="This machine, or a Ray cluster.")] = "local",
    processes: Annotated[
        int | None, typer.Option(help="Local processes of one core each; default: by cores, memory and work.")
    ] = None,
    precision: PrecisionOption = None,
    max_accuracy_drop: DropOption = 1.0,
    embed_preprocessing: EmbedOption = False,
    export: Annotated[
        Path | None, typer.Option(help="NAME.onnx or a folder for the best one; default: export nothing.")
    ] = None,
    dynamic_batch: DynamicOption = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a search that must be there.")] = False,
    tables: TablesOption = TABLES,
    as_json: JsonOption = False,
) -> None:
    """Evolve subnets within a budget, each one measured (SPOS, Guo et al. 2020).

    What was measured already is kept: the same command goes on after a kill. Defaults are the published ones.
    """
    if latency_ms is None and macs_m is None and params_m is None and bit_ops_g is None:
        raise OfaKitError("no budget: give --latency-ms with --device, --macs-m, --params-m or --bit-ops-g")
    for name, count in {"--images": images, "--processes": processes}.items():
        if count is not None and count < 1:
            raise OfaKitError(f"{name} must be at least 1, found {count}; leave it out for the default")

    from ofa_kit.commands.deploy import deployment_paths
    from ofa_kit.commands.deploy_conversion import Conversion
    from ofa_kit.commands.measure_engine import Measuring
    from ofa_kit.commands.search_spos import deploy_found, search_spos
    from ofa_kit.commands.spos_evolution import SposSettings
    from ofa_kit.latency.device import DeviceProfile
    from ofa_kit.progress import Terminal
    from ofa_kit.search.budget import Budget

    budget = Budget(latency_ms=_limit(latency_ms), macs_m=_limit(macs_m), params_m=_limit(params_m))
    settings = SposSettings(
        population=population,
        generations=generations,
        parents=parents,
        mutations=population // 2 if mutations is None else mutations,
        crossovers=population // 2 if crossovers is None else crossovers,
        mutation_probability=mutation_probability,
        seed=seed,
    )
    how = Measuring(images=images or 0, runtime=through, engine=engine, processes=processes or 0)
    conversion = Conversion(
        precision=precision, max_accuracy_drop=max_accuracy_drop, embed_preprocessing=embed_preprocessing
    )
    if export is not None:
        storage.writable_folder(deployment_paths(export)[0].parent)
    profile = DeviceProfile.load(device) if device is not None else None
    trained, reporter = open_run(run), Terminal()
    if resume and not trained.accuracy.exists():
        raise OfaKitError(f"nothing to resume: '{trained.accuracy}' is not there; leave out --resume")
    found = search_spos(
        trained,
        budget,
        device=profile,
        bit_ops_g=_limit(bit_ops_g),
        settings=settings,
        how=how,
        tables=tables,
        reporter=reporter,
    )
    values: dict[str, Any] = {
        "budget": str(budget) if bit_ops_g is None else f"{budget} and {bit_ops_g:g} G bit operations",
        "best": _values(found.best),
        "leaders": [_values(candidate) for candidate in found.leaders],
        "measured": found.measured,
        "log": str(found.log),
    }
    text = _lines(found, values["budget"])
    if export is not None:
        made = deploy_found(
            trained,
            found.best,
            export,
            device=profile,
            budget=values["budget"],
            dynamic_batch=dynamic_batch,
            conversion=conversion,
            tables=tables,
            reporter=reporter,
        )
        values["deployment"] = deployment_values(made)
        text += deployment_lines(made, values["budget"])
    show(values, text, as_json)


def _limit(value: float | None) -> float:
    return math.inf if value is None else value


def _lines(found: "SposFound", budget: str) -> list[str]:
    """Return what a search found for a person to read."""
    head = f"{'key':12}  {'top-1, %':>9}  {'MACs, M':>9}  {'params, M':>9}"
    head += f"  {'bit ops, G':>10}" if found.best.bit_ops_g else ""
    head += f"  {'ms predicted':>12}" if found.best.latency_ms_predicted is not None else ""
    head += f"  {'ms measured':>11}" if found.best.latency_ms is not None else ""
    rows = []
    for one in found.leaders:
        row = f"{one.arch.key:12}  {one.top1:9.2f}  {one.macs_m:9.2f}  {one.params_m:9.4f}"
        row += f"  {one.bit_ops_g:10.3f}" if found.best.bit_ops_g else ""
        row += f"  {one.latency_ms_predicted:12.4f}" if one.latency_ms_predicted is not None else ""
        row += f"  {one.latency_ms:11.4f}" if one.latency_ms is not None else ""
        rows.append(row)
    return [
        f"best     {found.best.arch.key}   top-1 {found.best.top1:.2f} % (measured)   budget {budget}",
        f"arch     {found.best.arch}",
        f"of       {found.measured} candidates measured, see {found.log}; the most accurate, top-1 measured:",
        head,
        *rows,
    ]


def _values(candidate: "SposCandidate") -> dict[str, Any]:
    """Return a candidate's fields; a latency that could not be measured is None, which JSON has a word for."""
    values = {**asdict(candidate), "arch": candidate.arch.to_row(), "key": candidate.arch.key}
    if candidate.latency_ms is not None and math.isinf(candidate.latency_ms):
        values["latency_ms"] = None
    return values
