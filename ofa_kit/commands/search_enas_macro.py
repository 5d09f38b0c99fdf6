"""search enas --kind macro: a whole network, searched by a controller whose samples share the weights of one child."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ofa_kit import storage
from ofa_kit.commands.cells_found import RESULT, can_draw, open_times
from ofa_kit.commands.search_enas_images import ARC, ImageSearch
from ofa_kit.data.dataset import Dataset
from ofa_kit.latency.protocol import Measurement
from ofa_kit.nas.cells.counts import macs_of, params_of
from ofa_kit.nas.enas.macro_arc import MacroArc, read_macro_arc, write_macro_arc
from ofa_kit.nas.enas.macro_latency import MeasuredMacro, macro_maker, macro_name, measure_macro
from ofa_kit.nas.enas.macro_network import MacroNetwork
from ofa_kit.nas.enas.macro_picture import save_macro_picture
from ofa_kit.nas.enas.macro_plan import MacroShape
from ofa_kit.nas.enas.macro_recipe import MacroRecipe
from ofa_kit.nas.enas.macro_search import MacroSearch
from ofa_kit.nas.run import WorkFolder
from ofa_kit.nas.times import Times
from ofa_kit.progress import Reporter
from ofa_kit.training.distributed import Team

Work = WorkFolder[MacroRecipe]


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


class MacroImages(ImageSearch[MacroRecipe, MacroArc, MeasuredMacro, MacroFound]):
    """Whole networks."""

    recipe, timed = MacroRecipe, "parts"

    def about(self, recipe: MacroRecipe) -> str:
        return f"networks of {recipe.layers} layers by ENAS: {recipe.channels} channels"

    def measure(self, work: Work, times: Times, reporter: Reporter) -> MeasuredMacro:
        return measure_macro(times, work.recipe.network_shape(work.info), reporter)

    def begun(self, work: Work, dataset: Dataset, team: Team, measured: MeasuredMacro | None) -> MacroSearch:
        latency_ms = measured.latency.of_arc if measured else None
        return MacroSearch(work.recipe, dataset, work.folder, team.device, latency_ms)

    def note(self, row: Mapping[str, object]) -> str:
        rate = read_macro_arc(str(row["genotype"])).skip_rate
        return f", {100 * rate:.0f} % of skip connections in the best network"

    def finished(
        self, work: Work, arch: MacroArc, epochs: int, measured: MeasuredMacro | None, reporter: Reporter
    ) -> MacroFound:
        recipe, folder, shape = work.recipe, work.folder, work.recipe.network_shape(work.info)
        network = MacroNetwork(arch, shape)
        found = MacroFound(
            folder=folder,
            arc=arch,
            shape=shape,
            params=params_of(network),
            macs=macs_of(network, shape.image),
            epochs=epochs,
            latency=time_macro(folder, recipe.device, shape, arch, reporter) if recipe.device else None,
            latency_ms_predicted=measured.latency.of_arc(arch) if measured else None,
        )
        if can_draw(reporter):
            save_macro_picture(arch, folder)
        storage.write_text(folder / ARC, write_macro_arc(arch) + "\n")
        storage.write_text(folder / RESULT, json.dumps(found.facts(), indent=2) + "\n")
        return found

    def found(self, work: Work) -> MacroFound:
        found = json.loads((work.folder / RESULT).read_text(encoding="utf-8"))
        timed, arc = found.pop("latency"), read_macro_arc(found.pop("arc"))
        del found["skip_rate"]
        shape, latency = work.recipe.network_shape(work.info), Measurement(**timed) if timed else None
        return MacroFound(folder=work.folder, arc=arc, shape=shape, latency=latency, **found)


def time_macro(folder: Path, device: str, shape: MacroShape, arc: MacroArc, reporter: Reporter) -> Measurement:
    """Time an arc's network on a device, as far as the file of times lacks it."""
    times, name = open_times(folder, device), macro_name(shape, arc)
    times.measure({name: macro_maker(shape, arc, times.backend.profile.batch)}, reporter)
    return times.of(name)
