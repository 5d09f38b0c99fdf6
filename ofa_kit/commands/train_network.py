"""What a search of images found, trained from scratch: validated, exported to ONNX, proven, timed and drawn."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import onnx
import torch
from torch import nn

from ofa_kit import storage
from ofa_kit.commands.cells_found import RESULT, alone, can_draw
from ofa_kit.commands.proven_export import ProvenNetwork, save_proven
from ofa_kit.commands.train_supernet import prepare_torch
from ofa_kit.data.dataset import Dataset
from ofa_kit.data.sources import open_dataset
from ofa_kit.errors import OfaKitError
from ofa_kit.latency.protocol import Measurement
from ofa_kit.nas.cells.counts import macs_of
from ofa_kit.nas.image_recipe import ImageRecipe
from ofa_kit.nas.image_training import ImageTraining
from ofa_kit.nas.run import WorkFolder
from ofa_kit.progress import Reporter
from ofa_kit.training.distributed import leave
from ofa_kit.training.epochs import Seen, work_through

COMMAND = "train-cells"
AUXILIARY = "auxiliary."
"""How the names of weights begin that are for training alone."""
R = TypeVar("R", bound=ImageRecipe)
N = TypeVar("N", bound=nn.Module)


class NetworkKind(ABC, Generic[R, N]):
    """What can be trained: how it is read, built, exported, timed and drawn."""

    key: ClassVar[str]
    """Of the recipe and of results: the text form of what is trained."""
    file: ClassVar[str]
    """Holds that text in the run's folder."""
    label: ClassVar[str]
    """What such a text is called, with an article."""

    @abstractmethod
    def find(self, name: str) -> object:
        """Return what a preset's name, a file or a text means; an OfaKitError where it is none of this kind."""

    def knows(self, name: str) -> bool:
        """Return whether `name` means something of this kind."""
        try:
            self.find(name)
        except OfaKitError:
            return False
        return True

    @abstractmethod
    def read(self, values: Mapping[str, Any], source: str) -> R:
        """Return the recipe with the text form in it, so that the folder needs no other file."""

    @abstractmethod
    def training(self, recipe: R, dataset: Dataset, folder: Path, device: torch.device) -> ImageTraining[N]:
        """Return a fresh network and what moves it."""

    @abstractmethod
    def text(self, network: N) -> str:
        """Return the text form of what a network is."""

    @abstractmethod
    def about(self, network: N) -> str:
        """Return how large a network is, in a few words."""

    @abstractmethod
    def model(self, network: N) -> onnx.ModelProto:
        """Return images (N, C, S, S) to logits (N, classes), N open."""

    @abstractmethod
    def time(self, network: N, folder: Path, device: str, reporter: Reporter) -> Measurement:
        """Time a network on a device, as far as the folder's file of times lacks it."""

    @abstractmethod
    def draw(self, network: N, folder: Path) -> None:
        """Write pictures; needs matplotlib."""


@dataclass(frozen=True, kw_only=True)
class NetworkTrained(ProvenNetwork):
    """A trained network, what it is and what was measured of it."""

    key: str
    """Which kind of network: the recipe's key that says what it is."""
    text: str
    """What it is, in text form."""

    def facts(self) -> dict[str, Any]:
        """Return all but the folder as plain values."""
        found = asdict(self)
        del found["folder"]
        return {found.pop("key"): found.pop("text"), **found}

    @classmethod
    def read(cls, folder: Path, key: str) -> "NetworkTrained":
        """Return what a finished training wrote."""
        found = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        if "test_top1" not in found:
            raise OfaKitError(f"'{folder / RESULT}' is no result of {COMMAND}; choose another --run")
        timed = found.pop("latency")
        text, latency = found.pop(key), Measurement(**timed) if timed else None
        return cls(folder=folder, key=key, text=text, latency=latency, **found)


def train_network(
    kind: NetworkKind[R, N],
    values: Mapping[str, Any],
    folder: Path,
    *,
    source: str,
    resume: bool,
    reporter: Reporter,
) -> NetworkTrained:
    """Train a network as the recipe `values` say, in `folder`, or go on with the training there."""
    work, dataset = WorkFolder[R].prepared(
        values, folder, kind.read, _open, source=source, resume=resume, command=COMMAND
    )
    if (folder / RESULT).exists():
        reporter.say(f"run '{folder}' is finished already")
        return NetworkTrained.read(folder, kind.key)
    prepare_torch()
    team = alone(work.recipe.accelerator, COMMAND)
    try:
        training = kind.training(work.recipe, dataset, folder, team.device)
        _train(work, training, kind.about(training.network), reporter)
    finally:
        leave()
    return _finished(kind, work, training, dataset, reporter)


def _open(recipe: ImageRecipe) -> Dataset:
    return open_dataset(recipe.data, photo_size=recipe.image_size)


def _train(work: WorkFolder[R], training: ImageTraining[N], about: str, reporter: Reporter) -> None:
    recipe = work.recipe
    reporter.say(
        f"training {about} ({_deployed_params(training.network):,} parameters) on "
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
    kind: NetworkKind[R, N], work: WorkFolder[R], training: ImageTraining[N], dataset: Dataset, reporter: Reporter
) -> NetworkTrained:
    """Save weights, export, compare with PyTorch on the test images, time, draw and write down."""
    recipe, network, folder, info = work.recipe, training.network.cpu().eval(), work.folder, work.info
    text = kind.text(network)
    state = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(AUXILIARY)}
    proof = save_proven(network, kind.model(network), state, dataset, folder, {kind.key: text})
    found = NetworkTrained(
        folder=folder,
        key=kind.key,
        text=text,
        params=_deployed_params(network),
        macs=macs_of(network, (info.in_channels, info.image_size, info.image_size)),
        validation_top1=training.top1(dataset.validation),
        test_top1=proof.top1_pytorch,
        test_top1_onnx=proof.top1_onnx,
        test_images=proof.images,
        max_relative_difference=proof.max_relative_difference,
        latency=kind.time(network, folder, recipe.device, reporter) if recipe.device else None,
    )
    if can_draw(reporter):
        kind.draw(network, folder)
    storage.write_text(folder / kind.file, text + "\n")
    storage.write_text(folder / RESULT, json.dumps(found.facts(), indent=2) + "\n")
    return found


def _deployed_params(network: nn.Module) -> int:
    return sum(weight.numel() for name, weight in network.named_parameters() if not name.startswith(AUXILIARY))
