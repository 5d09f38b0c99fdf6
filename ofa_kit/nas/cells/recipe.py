"""CellsRecipe: how the network of a genotype is trained from scratch, as read from profiles/recipes/cells-*.yaml."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ofa_kit.config import parse, refuse_below
from ofa_kit.data.dataset import DatasetInfo
from ofa_kit.errors import RecipeError
from ofa_kit.nas.cells.network import CellNetworkShape
from ofa_kit.nas.cells.plan import Layout, Stem
from ofa_kit.nas.cells.presets import find_genotype
from ofa_kit.nas.image_recipe import ImageRecipe


@dataclass(frozen=True, kw_only=True)
class CellsRecipe(ImageRecipe):
    """The defaults are the paper's on CIFAR-10 (Liu et al. 2019, sec. 3.2)."""

    genotype: str
    """A preset's name, a file with a text form, or the text itself: `Genotype(...)` or an arc of ENAS."""
    stem: Stem = "small-images"
    layout: Layout = "darts"
    """Whose network the cells stand in."""
    cells: int = 20
    channels: int = 36
    epochs: int = 600
    batch_size: int = 96
    lr: float = 0.025
    weight_decay: float = 3e-4
    drop_path: float = 0.2
    """Probability in the last epoch; it grows linearly from 0 and, in ENAS's layout, from cell to cell."""
    auxiliary_weight: float = 0.4
    """Weight of the auxiliary head's loss; 0 = no such head."""
    cutout: int = 16

    @classmethod
    def parse(cls, values: Mapping[str, Any], source: str) -> "CellsRecipe":
        """Check the values; an OfaKitError says what is wrong."""
        if not isinstance(values, Mapping) or "genotype" not in values:
            raise RecipeError(f"{source}: no genotype; give --genotype NAME, FILE or 'Genotype(...)'")
        recipe = parse(cls, values, source)
        find_genotype(recipe.genotype)
        recipe.check(source)
        return recipe

    def check(self, source: str) -> None:
        super().check(source)
        refuse_below(1, self, ("cells",), source)
        refuse_below(0, self, ("auxiliary_weight",), source)
        if not 0 <= self.drop_path < 1:
            raise RecipeError(f"{source}: drop_path must be in 0..1 (1 excluded), found {self.drop_path}")

    def shape(self, info: DatasetInfo) -> CellNetworkShape:
        """Return the shape of the network on such data."""
        return CellNetworkShape(
            cells=self.cells,
            channels=self.channels,
            in_channels=info.in_channels,
            num_classes=info.num_classes,
            image_size=info.image_size,
            stem=self.stem,
            layout=self.layout,
        )
