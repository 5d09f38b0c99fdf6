"""search darts: recipe and data to two cells in a run folder, with pictures, logs and, on a device, their latency."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ofa_kit import storage
from ofa_kit.commands.train_supernet import prepare_torch
from ofa_kit.data.dataset import Dataset, DatasetInfo
from ofa_kit.data.sources import open_dataset
from ofa_kit.errors import OfaKitError
from ofa_kit.latency.backends import backend_for
from ofa_kit.latency.device import DeviceProfile
from ofa_kit.latency.protocol import Measurement
from ofa_kit.nas.cells.counts import macs_of, params_of
from ofa_kit.nas.cells.genotype import DARTS_OPERATIONS, Genotype
from ofa_kit.nas.cells.measured import MeasuredLatency, measure_latency, network_bytes, network_name
from ofa_kit.nas.cells.network import CellNetwork, CellNetworkShape
from ofa_kit.nas.cells.pictures import save_pictures
from ofa_kit.nas.cells.text import read_genotype, write_genotype
from ofa_kit.nas.darts.recipe import DartsRecipe
from ofa_kit.nas.darts.search import Search
from ofa_kit.nas.run import WorkFolder
from ofa_kit.nas.times import Times
from ofa_kit.progress import Reporter, Silent
from ofa_kit.training.distributed import Team, leave
from ofa_kit.training.epochs import Seen, work_through

COMMAND = "search darts"
GENOTYPE, RESULT = "genotype.txt", "result.json"


@dataclass(frozen=True, kw_only=True)
class CellsFound:
    """What a search found, for the network that the recipe names."""

    folder: Path
    genotype: Genotype
    shape: CellNetworkShape
    params: int
    macs: int
    """Multiply-adds of an image."""
    epochs: int
    """Epochs that were run; fewer than the recipe's where the search stopped early."""
    latency: Measurement | None = None
    """Measured on the device; None without one."""
    latency_ms_predicted: float | None = None


def search_darts(
    values: Mapping[str, Any],
    folder: Path,
    *,
    source: str = "recipe",
    resume: bool = False,
    reporter: Reporter | None = None,
) -> CellsFound:
    """Search cells as the recipe `values` say, in `folder`, or go on with the search begun there."""
    reporter = reporter or Silent()
    work, dataset = WorkFolder[DartsRecipe].prepared(
        values, folder, DartsRecipe.parse, _open, source=source, resume=resume, command=COMMAND
    )
    if (folder / RESULT).exists():
        reporter.say(f"search '{folder}' is finished already")
        return read_found(work)
    prepare_torch()
    team = alone(work.recipe.accelerator, COMMAND)
    try:
        measured = _measured_latency(work, reporter)
        search = Search(work.recipe, dataset, folder, team.device, measured.latency if measured else None)
        epochs = _search(work, search, reporter)
        perturbs = work.recipe.selection == "perturbation"
        genotype = search.select_by_perturbation(reporter) if perturbs else search.genotype
        return _finished(work, genotype, epochs, measured, reporter)
    finally:
        leave()


def read_found(work: WorkFolder[DartsRecipe]) -> CellsFound:
    """Return what a finished search wrote."""
    found = json.loads((work.folder / RESULT).read_text(encoding="utf-8"))
    timed = found.pop("latency")
    genotype = read_genotype(found.pop("genotype"))
    shape = network_shape(work.recipe, work.info)
    latency = Measurement(**timed) if timed else None
    return CellsFound(folder=work.folder, genotype=genotype, shape=shape, latency=latency, **found)


def network_shape(recipe: DartsRecipe, info: DatasetInfo) -> CellNetworkShape:
    """Return the shape of the network that the cells are for."""
    return CellNetworkShape(
        cells=recipe.network_cells,
        channels=recipe.network_channels,
        in_channels=info.in_channels,
        num_classes=info.num_classes,
        image_size=info.image_size,
        stem=recipe.stem,
    )


def alone(accelerator: Any, command: str) -> Team:
    """Return this process's device; an OfaKitError where torchrun started several."""
    team = Team.join(accelerator)
    if team.size > 1:
        raise OfaKitError(f"{command} runs in one process on one device; start it without torchrun")
    return team


def draw(genotype: Genotype, folder: Path, reporter: Reporter) -> None:
    """Write pictures of the cells where matplotlib is there."""
    if can_draw(reporter):
        save_pictures(genotype, folder)


def can_draw(reporter: Reporter) -> bool:
    """Return whether matplotlib is there, and say so where it is not."""
    if find_spec("matplotlib") is None:
        reporter.say("no pictures: they need matplotlib; install `ofa-kit[report]`")
        return False
    return True


def open_times(folder: Path, device: str) -> Times:
    """Return what was measured on a device for the work in a folder."""
    profile = DeviceProfile.load(device)
    return Times.open(folder / f"times-{profile.name}.csv", backend_for(profile))


def time_network(
    folder: Path, device: str, shape: CellNetworkShape, genotype: Genotype, reporter: Reporter
) -> Measurement:
    """Time a genotype's network on a device, as far as the file of times lacks it."""
    times = open_times(folder, device)
    name = network_name(shape, genotype)
    times.measure({name: network_bytes(shape, genotype, times.backend.profile.batch)}, reporter)
    return times.of(name)


def _open(recipe: DartsRecipe) -> Dataset:
    return open_dataset(recipe.data, photo_size=recipe.image_size)


def _measured_latency(work: WorkFolder[DartsRecipe], reporter: Reporter) -> MeasuredLatency | None:
    recipe = work.recipe
    if not recipe.device:
        return None
    times = open_times(work.folder, recipe.device)
    found = measure_latency(times, network_shape(recipe, work.info), recipe.nodes, DARTS_OPERATIONS, reporter)
    reporter.say(
        f"latency on {recipe.device}: operations measured; networks left out of the fit are predicted within "
        f"{found.mape:.1f} % on average ({found.networks} measured)"
    )
    return found


def _search(work: WorkFolder[DartsRecipe], search: Search, reporter: Reporter) -> int:
    """Run the epochs and return how many there were."""
    recipe, shape = work.recipe, search.network.shape
    halves = search.halves
    reporter.say(
        f"searching cells of {recipe.nodes} nodes by DARTS, order {recipe.order}: {shape.cells} cells, "
        f"{shape.channels} channels, {len(halves.weights.labels)} images for weights and {len(halves.alphas.labels)} "
        f"for alphas of {recipe.data}, {search.device.type}"
    )
    try:
        with reporter.task("search", search.epochs * search.steps_per_epoch) as advance:

            def watch(seen: Seen) -> None:
                advance(seen.done_steps, f"train loss {seen.losses['train_loss']:.3f}")
                for row in (seen.rows or {}).get(search.metrics, ()):
                    reporter.say(
                        f"epoch {row['epoch']}: train loss {row['train_loss']}, entropy {row['entropy']} nats, "
                        f"{row['skips']} skip-connections in the normal cell"
                        + (f", {row['latency_ms_predicted']} ms (predicted)" if search.latency else "")
                    )

            position = work_through(search, work.checkpoint, checkpoint_s=recipe.checkpoint_s, watch=watch)
    except KeyboardInterrupt:
        reporter.say(f"stopped; go on with `ofa-kit {COMMAND} --run {work.folder} --resume`")
        raise
    if search.ended_early:
        reporter.say(f"stopped after epoch {position.epoch}: more than {recipe.max_skips} skip-connections")
    return position.epoch


def _finished(
    work: WorkFolder[DartsRecipe],
    genotype: Genotype,
    epochs: int,
    measured: MeasuredLatency | None,
    reporter: Reporter,
) -> CellsFound:
    """Measure the result, draw it and write it down."""
    shape = network_shape(work.recipe, work.info)
    network = CellNetwork(genotype, shape)
    macs = macs_of(network, (shape.in_channels, shape.image_size, shape.image_size))
    latency = predicted_ms = None
    if measured is not None:
        latency = time_network(work.folder, work.recipe.device, shape, genotype, reporter)
        predicted_ms = measured.latency.of_genotype(genotype)
    found = CellsFound(
        folder=work.folder,
        genotype=genotype,
        shape=shape,
        params=params_of(network),
        macs=macs,
        epochs=epochs,
        latency=latency,
        latency_ms_predicted=predicted_ms,
    )
    draw(genotype, work.folder, reporter)
    storage.write_text(work.folder / GENOTYPE, write_genotype(genotype) + "\n")
    facts = {
        "genotype": write_genotype(genotype),
        "params": found.params,
        "macs": macs,
        "epochs": epochs,
        "latency": asdict(latency) if latency else None,
        "latency_ms_predicted": predicted_ms,
    }
    storage.write_text(work.folder / RESULT, json.dumps(facts, indent=2) + "\n")
    return found
