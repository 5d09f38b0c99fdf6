"""Training of a genotype's network: drop-path that grows, and an auxiliary head."""

from pathlib import Path

import torch
from torch import Tensor

from ofa_kit.data.dataset import Dataset
from ofa_kit.nas.cells.genotype import Genotype
from ofa_kit.nas.cells.network import CellNetwork, DropPath
from ofa_kit.nas.cells.recipe import CellsRecipe
from ofa_kit.nas.image_training import ImageTraining
from ofa_kit.training.epochs import Numbers


class CellTraining(ImageTraining[CellNetwork]):
    """A genotype's network and what moves it."""

    recipe: CellsRecipe
    columns = ("epoch", "lr", "loss", "drop_path", "validation_top1", "elapsed_s")

    def __init__(
        self, recipe: CellsRecipe, genotype: Genotype, dataset: Dataset, folder: Path, device: torch.device
    ) -> None:
        def make() -> CellNetwork:
            return CellNetwork(genotype, recipe.shape(dataset.info), auxiliary=recipe.auxiliary_weight > 0)

        super().__init__(recipe, make, dataset, folder, device)

    def losses(self, images: Tensor, labels: Tensor, epoch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the loss of the classifier, and with the auxiliary head's."""
        drop = DropPath(self._drop_path(epoch), generator)
        logits, extra = self.network.logits(images, drop if drop.probability else None, self.dropout(generator))
        loss = self.cross_entropy(logits, labels)
        if extra is None:
            return loss, loss
        return loss, loss + self.recipe.auxiliary_weight * self.cross_entropy(extra, labels)

    def row(self, epoch: int, means: Numbers) -> dict[str, object]:
        return super().row(epoch, means) | {"drop_path": f"{self._drop_path(epoch):.4f}"}

    def _drop_path(self, epoch: int) -> float:
        return self.recipe.drop_path * epoch / self.epochs
