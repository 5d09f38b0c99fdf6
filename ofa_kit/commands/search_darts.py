"""search darts: recipe and data to two cells in a run folder, with pictures, logs and, on a device, their latency."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ofa_kit.commands.cells_found import RESULT, CellsFound, alone, finished, open_times, read_found
from ofa_kit.commands.train_supernet import prepare_torch
from ofa_kit.data.dataset import Dataset, DatasetInfo
from ofa_kit.data.sources import open_dataset
from ofa_kit.nas.cells.genotype import DARTS_OPERATIONS
from ofa_kit.nas.cells.measured import MeasuredLatency, measure_latency
from ofa_kit.nas.cells.network import CellNetworkShape
from ofa_kit.nas.darts.recipe import DartsRecipe
from ofa_kit.nas.darts.search import Search
from ofa_kit.nas.run import WorkFolder
from ofa_kit.progress import Reporter, Silent
from ofa_kit.training.distributed import leave
from ofa_kit.training.epochs import Seen, work_through

COMMAND = "search darts"


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
        return read_found(folder, network_shape(work.recipe, work.info))
    prepare_torch()
    team = alone(work.recipe.accelerator, COMMAND)
    try:
        measured = _measured_latency(work, reporter)
        search = Search(work.recipe, dataset, folder, team.device, measured.latency if measured else None)
        epochs = _search(work, search, reporter)
        perturbs = work.recipe.selection == "perturbation"
        genotype = search.select_by_perturbation(reporter) if perturbs else search.genotype
        shape = network_shape(work.recipe, work.info)
        return finished(folder, shape, genotype, epochs, reporter, device=work.recipe.device, predicted=measured)
    finally:
        leave()


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
