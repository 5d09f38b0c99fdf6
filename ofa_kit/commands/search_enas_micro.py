"""search enas --kind micro: two cells, searched by a controller whose samples share the weights of one child."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ofa_kit import storage
from ofa_kit.commands.cells_found import RESULT, CellsFound, alone, finished, open_times, read_found
from ofa_kit.commands.train_supernet import prepare_torch
from ofa_kit.data.dataset import Dataset
from ofa_kit.data.sources import open_dataset
from ofa_kit.nas.cells.arc import MICRO_OPERATIONS, write_arc
from ofa_kit.nas.cells.measured import MeasuredLatency, measure_latency
from ofa_kit.nas.enas.derive import derive
from ofa_kit.nas.enas.micro_recipe import MicroRecipe
from ofa_kit.nas.enas.micro_search import MicroSearch
from ofa_kit.nas.run import WorkFolder
from ofa_kit.progress import Reporter, Silent
from ofa_kit.training.distributed import leave
from ofa_kit.training.epochs import Seen, work_through

COMMAND = "search enas"
ARC, DERIVED = "arc.txt", "derived.csv"


def search_micro(
    values: Mapping[str, Any],
    folder: Path,
    *,
    source: str = "recipe",
    resume: bool = False,
    reporter: Reporter | None = None,
) -> CellsFound:
    """Search cells as the recipe `values` say, in `folder`, or go on with the search begun there."""
    reporter = reporter or Silent()
    work, dataset = WorkFolder[MicroRecipe].prepared(
        values, folder, MicroRecipe.parse, _open, source=source, resume=resume, command=COMMAND
    )
    recipe = work.recipe
    shape = recipe.network_shape(work.info)
    if (folder / RESULT).exists():
        reporter.say(f"search '{folder}' is finished already")
        return read_found(folder, shape)
    prepare_torch()
    team = alone(recipe.accelerator, COMMAND)
    try:
        measured = _measured_latency(work, reporter)
        search = MicroSearch(recipe, dataset, folder, team.device, measured.latency if measured else None)
        epochs = _search(work, search, reporter)
        genotype = derive(search, folder / DERIVED, reporter)
        storage.write_text(folder / ARC, write_arc(genotype) + "\n")
        return finished(folder, shape, genotype, epochs, reporter, device=recipe.device, predicted=measured)
    except KeyboardInterrupt:
        reporter.say(f"stopped; go on with `ofa-kit {COMMAND} --run {work.folder} --resume`")
        raise
    finally:
        leave()


def _open(recipe: MicroRecipe) -> Dataset:
    return open_dataset(recipe.data, photo_size=recipe.image_size)


def _measured_latency(work: WorkFolder[MicroRecipe], reporter: Reporter) -> MeasuredLatency | None:
    recipe = work.recipe
    if not recipe.device:
        return None
    times = open_times(work.folder, recipe.device)
    shape = recipe.network_shape(work.info)
    found = measure_latency(times, shape, recipe.nodes, MICRO_OPERATIONS, reporter, joined="unused")
    reporter.say(
        f"latency on {recipe.device}: operations measured; networks left out of the fit are predicted within "
        f"{found.mape:.1f} % on average ({found.networks} measured)"
    )
    return found


def _search(work: WorkFolder[MicroRecipe], search: MicroSearch, reporter: Reporter) -> int:
    """Run the epochs and return how many there were."""
    recipe = work.recipe
    reporter.say(
        f"searching cells of {recipe.nodes} nodes by ENAS: {recipe.cells} cells, {recipe.channels} channels, "
        f"{len(search.learned.labels)} images for weights and {len(search.held.labels)} for rewards of {recipe.data}, "
        f"{search.device.type}"
    )
    with reporter.task("search", search.epochs * search.steps_per_epoch) as advance:

        def watch(seen: Seen) -> None:
            advance(seen.done_steps, ", ".join(f"{name} {seen.losses[name]:.3f}" for name in list(seen.losses)[:1]))
            for row in (seen.rows or {}).get(search.metrics, ()):
                reporter.say(
                    f"epoch {row['epoch']}: train loss {row['train_loss']}, reward {row['reward']}, entropy "
                    f"{row['entropy']} nats"
                    + (f", {row['sampled_ms_predicted']} ms on average (predicted)" if search.latency_ms else "")
                )

        return work_through(search, work.checkpoint, checkpoint_s=recipe.checkpoint_s, watch=watch).epoch
