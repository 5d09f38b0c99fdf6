"""train-cells: the network of a genotype or of a macro arc, trained from scratch in a run folder."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import torch

from ofa_kit.commands.cells_found import GENOTYPE, time_network
from ofa_kit.commands.search_enas_images import ARC
from ofa_kit.commands.search_enas_macro import time_macro
from ofa_kit.commands.train_network import NetworkKind, NetworkTrained, train_network
from ofa_kit.config import read_yaml
from ofa_kit.data.dataset import Dataset
from ofa_kit.errors import RecipeError, RunError
from ofa_kit.latency.protocol import Measurement
from ofa_kit.nas.cells.genotype import Genotype
from ofa_kit.nas.cells.network import CellNetwork
from ofa_kit.nas.cells.onnx import network_model
from ofa_kit.nas.cells.pictures import save_pictures
from ofa_kit.nas.cells.presets import find_genotype
from ofa_kit.nas.cells.recipe import CellsRecipe
from ofa_kit.nas.cells.text import read_genotype, write_genotype
from ofa_kit.nas.cells.training import CellTraining
from ofa_kit.nas.enas.macro_arc import MacroArc, find_macro_arc, write_macro_arc, write_on_one_line
from ofa_kit.nas.enas.macro_network import MacroNetwork
from ofa_kit.nas.enas.macro_network_recipe import MacroNetworkRecipe
from ofa_kit.nas.enas.macro_onnx import macro_model
from ofa_kit.nas.enas.macro_picture import save_macro_picture
from ofa_kit.nas.image_training import ImageTraining
from ofa_kit.nas.run import CONFIG
from ofa_kit.progress import Reporter, Silent


class Cells(NetworkKind[CellsRecipe, CellNetwork]):
    """Two cells, each many times."""

    key, file, label = "genotype", GENOTYPE, "a genotype of cells"

    def find(self, name: str) -> Genotype:
        return find_genotype(name)

    def read(self, values: Mapping[str, Any], source: str) -> CellsRecipe:
        recipe = CellsRecipe.parse(values, source)
        return replace(recipe, genotype=write_genotype(find_genotype(recipe.genotype)))

    def training(self, recipe: CellsRecipe, dataset: Dataset, folder: Path, device: torch.device) -> CellTraining:
        return CellTraining(recipe, read_genotype(recipe.genotype), dataset, folder, device)

    def text(self, network: CellNetwork) -> str:
        return write_genotype(network.genotype)

    def about(self, network: CellNetwork) -> str:
        return f"{network.shape.cells} cells, {network.shape.channels} channels"

    def model(self, network: CellNetwork) -> onnx.ModelProto:
        return network_model(network, batch=None)

    def time(self, network: CellNetwork, folder: Path, device: str, reporter: Reporter) -> Measurement:
        return time_network(folder, device, network.shape, network.genotype, reporter)

    def draw(self, network: CellNetwork, folder: Path) -> None:
        save_pictures(network.genotype, folder)


class Macro(NetworkKind[MacroNetworkRecipe, MacroNetwork]):
    """A whole network of ENAS."""

    key, file, label = "macro_arc", ARC, "a macro arc"

    def find(self, name: str) -> MacroArc:
        return find_macro_arc(name)

    def read(self, values: Mapping[str, Any], source: str) -> MacroNetworkRecipe:
        recipe = MacroNetworkRecipe.parse(values, source)
        return replace(recipe, macro_arc=write_on_one_line(find_macro_arc(recipe.macro_arc)))

    def training(
        self, recipe: MacroNetworkRecipe, dataset: Dataset, folder: Path, device: torch.device
    ) -> ImageTraining[MacroNetwork]:
        arc, shape = find_macro_arc(recipe.macro_arc), recipe.shape(dataset.info)
        return ImageTraining(recipe, lambda: MacroNetwork(arc, shape), dataset, folder, device)

    def text(self, network: MacroNetwork) -> str:
        return write_macro_arc(network.arc)

    def about(self, network: MacroNetwork) -> str:
        return f"{network.shape.layers} layers, {network.shape.channels} channels"

    def model(self, network: MacroNetwork) -> onnx.ModelProto:
        return macro_model(network, batch=None)

    def time(self, network: MacroNetwork, folder: Path, device: str, reporter: Reporter) -> Measurement:
        return time_macro(folder, device, network.shape, network.arc, reporter)

    def draw(self, network: MacroNetwork, folder: Path) -> None:
        save_macro_picture(network.arc, folder)


KINDS: Mapping[str, NetworkKind[Any, Any]] = {kind.key: kind for kind in (Cells(), Macro())}
"""By the recipe's key that says what is trained."""


def train_cells(
    values: Mapping[str, Any],
    folder: Path,
    *,
    source: str = "recipe",
    resume: bool = False,
    reporter: Reporter | None = None,
) -> NetworkTrained:
    """Train a network as the recipe `values` say, in `folder`, or go on with the training there."""
    kind = KINDS[_key(values, folder, source, resume=resume)]
    return train_network(kind, values, folder, source=source, resume=resume, reporter=reporter or Silent())


def _key(values: Mapping[str, Any], folder: Path, source: str, *, resume: bool) -> str:
    """Return the key of what is trained; an OfaKitError where several, none or the wrong one is given."""
    given = [key for key in KINDS if key in values]
    if len(given) > 1:
        raise RecipeError(
            f"{source}: {' and '.join(given)} are both given; recipes cells-*.yaml are for a genotype, macro-*.yaml "
            "for a macro arc"
        )
    begun = _begun_key(folder) if resume else None
    if given and begun not in (None, given[0]):
        raise RunError(
            f"'{folder}' was begun with a {begun}, --resume asks for a {given[0]}; leave it out, or start another "
            "--run NAME"
        )
    if not given and not resume:
        raise RecipeError(f"{source}: nothing to train; give --genotype or --macro-arc, each a NAME, a FILE or a text")
    if given:
        _refuse_other_kind(given[0], str(values[given[0]]), source)
    return given[0] if given else begun or next(iter(KINDS))


def _begun_key(folder: Path) -> str | None:
    """Return the key of the training begun in a folder; none where there is none, which its opening says."""
    path = folder / CONFIG
    found = read_yaml(path) if path.exists() else {}
    return next((key for key in KINDS if key in (found.get("recipe") or {})), None)


def _refuse_other_kind(key: str, text: str, source: str) -> None:
    """Raise a RecipeError where a text is none of its own kind, but of another."""
    meant = next((kind for kind in KINDS.values() if kind.knows(text)), None)
    if meant is not None and not KINDS[key].knows(text):
        raise RecipeError(
            f"{source}: {key} is {meant.label}, not {KINDS[key].label}; give it as --{meant.key.replace('_', '-')}"
        )
