"""search enas --kind macro: a whole network, searched by a controller whose samples share the weights of one child."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ofa_kit import storage
from ofa_kit.commands.cells_found import RESULT, alone, can_draw, open_times
from ofa_kit.commands.train_supernet import prepare_torch
from ofa_kit.data.dataset import Dataset
from ofa_kit.data.sources import open_dataset
from ofa_kit.latency.protocol import Measurement
from ofa_kit.nas.cells.counts import macs_of, params_of
from ofa_kit.nas.enas.derive import derive
from ofa_kit.nas.enas.macro_arc import MacroArc, read_macro_arc, write_macro_arc
from ofa_kit.nas.enas.macro_latency import MeasuredMacro, macro_maker, macro_name, measure_macro
from ofa_kit.nas.enas.macro_network import MacroNetwork
from ofa_kit.nas.enas.macro_picture import save_macro_picture
from ofa_kit.nas.enas.macro_plan import MacroShape
from ofa_kit.nas.enas.macro_recipe import MacroRecipe
from ofa_kit.nas.enas.macro_search import MacroSearch
from ofa_kit.nas.run import WorkFolder
from ofa_kit.progress import Reporter, Silent
from ofa_kit.training.distributed import leave
from ofa_kit.training.epochs import Seen, work_through

COMMAND = "search enas"
ARC, DERIVED = "arc.txt", "derived.csv"


@dataclass(frozen=True, kw_only=True)
class MacroFound:
    """What a macro search found, for the network that the recipe names."""

    folder: Path
    arc: MacroArc
    shape: MacroShape
    params: int
    macs: int
    """Multiply-adds of an image."""
    epochs: int
    latency: Measurement | None = None
    """Measured on the device; None without one."""
    latency_ms_predicted: float | None = None

    def facts(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return {
            "arc": write_macro_arc(self.arc),
            "skip_rate": self.arc.skip_rate,
            "params": self.params,
            "macs": self.macs,
            "epochs": self.epochs,
            "latency": asdict(self.latency) if self.latency else None,
            "latency_ms_predicted": self.latency_ms_predicted,
        }

    def lines(self) -> list[str]:
        """Return what a person reads."""
        latency = []
        if self.latency:
            latency = [
                f"latency   {self.latency.latency_ms:.4f} ms measured, {self.latency_ms_predicted:.4f} ms predicted"
            ]
        return [
            *(f"{'arc' if number == 0 else '':9} {row}" for number, row in enumerate(self.facts()["arc"].splitlines())),
            f"network   {self.shape.layers} layers, {self.shape.channels} channels: {self.params:,} parameters, "
            f"{self.macs:,} MACs",
            f"skips     {100 * self.arc.skip_rate:.0f} % of the possible connections",
            *latency,
            f"files     {self.folder}: arc.txt, pictures of the network, search.csv, derived.csv",
            f"next: ofa-kit train-cells --macro-arc {self.folder}/arc.txt --recipe macro-small",
        ]


def search_enas_macro(
    values: Mapping[str, Any],
    folder: Path,
    *,
    source: str = "recipe",
    resume: bool = False,
    reporter: Reporter | None = None,
) -> MacroFound:
    """Search a network as the recipe `values` say, in `folder`, or go on with the search begun there."""
    reporter = reporter or Silent()
    work, dataset = WorkFolder[MacroRecipe].prepared(
        values, folder, MacroRecipe.parse, _open, source=source, resume=resume, command=COMMAND
    )
    if (folder / RESULT).exists():
        reporter.say(f"search '{folder}' is finished already")
        return _read(work)
    prepare_torch()
    team = alone(work.recipe.accelerator, COMMAND)
    try:
        measured = _measured_latency(work, reporter)
        search = MacroSearch(work.recipe, dataset, folder, team.device, measured.latency.of_arc if measured else None)
        epochs = _search(work, search, reporter)
        arc = derive(search, folder / DERIVED, reporter)
        found = _found(work, arc, epochs, measured, reporter)
    except KeyboardInterrupt:
        reporter.say(f"stopped; go on with `ofa-kit {COMMAND} --run {work.folder} --resume`")
        raise
    finally:
        leave()
    _draw(arc, folder, reporter)
    storage.write_text(folder / ARC, write_macro_arc(arc) + "\n")
    storage.write_text(folder / RESULT, json.dumps(found.facts(), indent=2) + "\n")
    return found


def time_macro(folder: Path, device: str, shape: MacroShape, arc: MacroArc, reporter: Reporter) -> Measurement:
    """Time an arc's network on a device, as far as the file of times lacks it."""
    times, name = open_times(folder, device), macro_name(shape, arc)
    times.measure({name: macro_maker(shape, arc, times.backend.profile.batch)}, reporter)
    return times.of(name)


def _read(work: WorkFolder[MacroRecipe]) -> MacroFound:
    """Return what a finished search wrote."""
    found = json.loads((work.folder / RESULT).read_text(encoding="utf-8"))
    timed, arc = found.pop("latency"), read_macro_arc(found.pop("arc"))
    del found["skip_rate"]
    shape, latency = work.recipe.network_shape(work.info), Measurement(**timed) if timed else None
    return MacroFound(folder=work.folder, arc=arc, shape=shape, latency=latency, **found)


def _measured_latency(work: WorkFolder[MacroRecipe], reporter: Reporter) -> MeasuredMacro | None:
    recipe = work.recipe
    if not recipe.device:
        return None
    found = measure_macro(open_times(work.folder, recipe.device), recipe.network_shape(work.info), reporter)
    reporter.say(
        f"latency on {recipe.device}: parts measured; networks left out of the fit are predicted within "
        f"{found.mape:.1f} % on average ({found.networks} measured)"
    )
    return found


def _open(recipe: MacroRecipe) -> Dataset:
    return open_dataset(recipe.data, photo_size=recipe.image_size)


def _search(work: WorkFolder[MacroRecipe], search: MacroSearch, reporter: Reporter) -> int:
    """Run the epochs and return how many there were."""
    recipe = work.recipe
    reporter.say(
        f"searching networks of {recipe.layers} layers by ENAS: {recipe.channels} channels, "
        f"{len(search.learned.labels)} images for weights and {len(search.held.labels)} for rewards of {recipe.data}, "
        f"{search.device.type}"
    )
    with reporter.task("search", search.epochs * search.steps_per_epoch) as advance:

        def watch(seen: Seen) -> None:
            advance(seen.done_steps, ", ".join(f"{name} {seen.losses[name]:.3f}" for name in list(seen.losses)[:1]))
            for row in (seen.rows or {}).get(search.metrics, ()):
                rate = read_macro_arc(str(row["genotype"])).skip_rate
                reporter.say(
                    f"epoch {row['epoch']}: train loss {row['train_loss']}, reward {row['reward']}, entropy "
                    f"{row['entropy']} nats, {100 * rate:.0f} % of skip connections in the best network"
                )

        return work_through(search, work.checkpoint, checkpoint_s=recipe.checkpoint_s, watch=watch).epoch


def _found(
    work: WorkFolder[MacroRecipe], arc: MacroArc, epochs: int, measured: MeasuredMacro | None, reporter: Reporter
) -> MacroFound:
    """Count what the arc's network has and time it where a device is given."""
    shape = work.recipe.network_shape(work.info)
    network = MacroNetwork(arc, shape)
    return MacroFound(
        folder=work.folder,
        arc=arc,
        shape=shape,
        params=params_of(network),
        macs=macs_of(network, shape.image),
        epochs=epochs,
        latency=time_macro(work.folder, work.recipe.device, shape, arc, reporter) if measured else None,
        latency_ms_predicted=measured.latency.of_arc(arc) if measured else None,
    )


def _draw(arc: MacroArc, folder: Path, reporter: Reporter) -> None:
    """Write pictures of the network where matplotlib is there."""
    if can_draw(reporter):
        save_macro_picture(arc, folder)
