"""The micro search: its architectures are pairs of cells."""

from pathlib import Path

import torch
from torch import Tensor

from ofa_kit.data.dataset import Dataset
from ofa_kit.nas.cells.genotype import Genotype
from ofa_kit.nas.cells.latency import CellLatency
from ofa_kit.nas.cells.network import Dropout
from ofa_kit.nas.cells.text import read_genotype, write_genotype
from ofa_kit.nas.enas.micro_child import MicroChild
from ofa_kit.nas.enas.micro_controller import MicroController, genotype_of
from ofa_kit.nas.enas.micro_recipe import MicroRecipe
from ofa_kit.nas.enas.search import SharedSearch


class MicroSearch(SharedSearch[Genotype]):
    """A search of cells."""

    recipe: MicroRecipe
    child: MicroChild

    def __init__(
        self,
        recipe: MicroRecipe,
        dataset: Dataset,
        folder: Path,
        device: torch.device,
        latency: CellLatency | None = None,
    ) -> None:
        self.auxiliary_weight = recipe.auxiliary_weight
        super().__init__(recipe, dataset, folder, device, latency.of_genotype if latency else None)

    def fresh_child(self) -> MicroChild:
        shape = self.recipe.child_shape(self.dataset.info)
        return MicroChild(shape, nodes=self.recipe.nodes, auxiliary=self.auxiliary_weight > 0)

    def fresh_controller(self, generator: torch.Generator) -> MicroController:
        return MicroController(self.recipe.nodes, generator)

    def logits(self, images: Tensor, arch: Genotype, dropout: Dropout | None) -> tuple[Tensor, Tensor | None]:
        return self.child.logits(images, arch, dropout)

    def archs(self, tokens: Tensor) -> list[Genotype]:
        return [genotype_of(row) for row in tokens.tolist()]

    def write(self, arch: Genotype) -> str:
        return write_genotype(arch)

    def read(self, text: str) -> Genotype:
        return read_genotype(text)
