"""train-cells: the network of a genotype, trained from scratch, validated, exported to ONNX, proven and timed."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ofa_kit import storage
from ofa_kit.commands.cells_found import GENOTYPE, RESULT, alone, draw, time_network
from ofa_kit.commands.proven_export import MODEL, save_proven
from ofa_kit.commands.train_supernet import prepare_torch
from ofa_kit.data.dataset import Dataset
from ofa_kit.data.sources import open_dataset
from ofa_kit.errors import OfaKitError
from ofa_kit.export.compare import Comparison
from ofa_kit.latency.protocol import Measurement
from ofa_kit.nas.cells.counts import macs_of, params_of
from ofa_kit.nas.cells.genotype import Genotype
from ofa_kit.nas.cells.network import CellNetwork
from ofa_kit.nas.cells.onnx import network_model
from ofa_kit.nas.cells.presets import find_genotype
from ofa_kit.nas.cells.recipe import CellsRecipe
from ofa_kit.nas.cells.text import read_genotype, write_genotype
from ofa_kit.nas.cells.training import CellTraining
from ofa_kit.nas.run import WorkFolder
from ofa_kit.progress import Reporter, Silent
from ofa_kit.training.distributed import leave
from ofa_kit.training.epochs import Seen, work_through

COMMAND = "train-cells"


@dataclass(frozen=True, kw_only=True)
class CellsTrained:
    """A trained network and what was measured of it."""

    folder: Path
    genotype: Genotype
    params: int
    """Without the auxiliary head."""
    macs: int
    validation_top1: float
    """Percent of the held-out part of the training images."""
    test_top1: float
    """Percent of the test images, in PyTorch."""
    test_top1_onnx: float
    test_images: int
    max_relative_difference: float
    """Of ONNX Runtime's logits from PyTorch's, relative to the largest."""
    latency: Measurement | None = None

    @property
    def model(self) -> Path:
        return self.folder / MODEL


def train_cells(
    values: Mapping[str, Any],
    folder: Path,
    *,
    source: str = "recipe",
    resume: bool = False,
    reporter: Reporter | None = None,
) -> CellsTrained:
    """Train the network of a genotype as the recipe `values` say, in `folder`, or go on with the training there."""
    reporter = reporter or Silent()
    work, dataset = WorkFolder[CellsRecipe].prepared(
        values, folder, _parse, _open, source=source, resume=resume, command=COMMAND
    )
    if (folder / RESULT).exists():
        reporter.say(f"run '{folder}' is finished already")
        return _read(folder)
    prepare_torch()
    team = alone(work.recipe.accelerator, COMMAND)
    try:
        training = CellTraining(work.recipe, read_genotype(work.recipe.genotype), dataset, folder, team.device)
        _train(work, training, reporter)
    finally:
        leave()
    return _finished(work, training, dataset, reporter)


def _parse(values: Mapping[str, Any], source: str) -> CellsRecipe:
    """Return the recipe with the genotype's text in it, so that the folder needs no other file."""
    recipe = CellsRecipe.parse(values, source)
    return dataclasses.replace(recipe, genotype=write_genotype(find_genotype(recipe.genotype)))


def _open(recipe: CellsRecipe) -> Dataset:
    return open_dataset(recipe.data, photo_size=recipe.image_size)


def _train(work: WorkFolder[CellsRecipe], training: CellTraining, reporter: Reporter) -> None:
    recipe, network = work.recipe, training.network
    reporter.say(
        f"training {recipe.cells} cells, {recipe.channels} channels ({_deployed_params(network):,} parameters) on "
        f"{len(training.source.labels)} images of {recipe.data}, {training.device.type}, {recipe.precision}"
    )
    try:
        with reporter.task("train", training.epochs * training.steps_per_epoch) as advance:

            def watch(seen: Seen) -> None:
                advance(seen.done_steps, f"loss {seen.losses['loss']:.3f}")
                for row in (seen.rows or {}).get(training.metrics, ()):
                    if row["validation_top1"]:
                        reporter.say(
                            f"epoch {row['epoch']}: loss {row['loss']}, validation top-1 {row['validation_top1']} % "
                            "(measured)"
                        )

            work_through(training, work.checkpoint, checkpoint_s=recipe.checkpoint_s, watch=watch)
    except KeyboardInterrupt:
        reporter.say(f"stopped; go on with `ofa-kit {COMMAND} --run {work.folder} --resume`")
        raise


def _finished(
    work: WorkFolder[CellsRecipe], training: CellTraining, dataset: Dataset, reporter: Reporter
) -> CellsTrained:
    """Save weights, export, compare with PyTorch on the test images, time, draw and write down."""
    recipe, network, folder = work.recipe, training.network.cpu().eval(), work.folder
    genotype, shape = network.genotype, network.shape
    proof = _exported(work, network, dataset)
    macs = macs_of(network, (shape.in_channels, shape.image_size, shape.image_size))
    latency = time_network(folder, recipe.device, shape, genotype, reporter) if recipe.device else None
    found = CellsTrained(
        folder=folder,
        genotype=genotype,
        params=_deployed_params(network),
        macs=macs,
        validation_top1=training.top1(dataset.validation),
        test_top1=proof.top1_pytorch,
        test_top1_onnx=proof.top1_onnx,
        test_images=proof.images,
        max_relative_difference=proof.max_relative_difference,
        latency=latency,
    )
    draw(genotype, folder, reporter)
    storage.write_text(folder / GENOTYPE, write_genotype(genotype) + "\n")
    facts = {**asdict(dataclasses.replace(found, folder=Path())), "genotype": write_genotype(genotype)}
    facts.pop("folder")
    storage.write_text(folder / RESULT, json.dumps(facts, indent=2) + "\n")
    return found


def _exported(work: WorkFolder[CellsRecipe], network: CellNetwork, dataset: Dataset) -> Comparison:
    """Write weights and model.onnx, which has been compared with PyTorch on all test images."""
    state = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("auxiliary.")}
    facts = {"genotype": write_genotype(network.genotype)}
    return save_proven(network, network_model(network, batch=None), state, dataset, work.folder, facts)


def _deployed_params(network: CellNetwork) -> int:
    return params_of(network) - (params_of(network.auxiliary) if network.auxiliary is not None else 0)


def _read(folder: Path) -> CellsTrained:
    found = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    timed, genotype = found.pop("latency"), read_genotype(found.pop("genotype"))
    if "test_top1" not in found:
        raise OfaKitError(f"'{folder / RESULT}' is no result of {COMMAND}; choose another --run")
    latency = Measurement(**timed) if timed else None
    return CellsTrained(folder=folder, genotype=genotype, latency=latency, **found)
