"""MacroNetworkRecipe: how the network of a macro arc is trained from scratch, from profiles/recipes/macro-*.yaml."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ofa_kit.config import parse
from ofa_kit.data.dataset import DatasetInfo
from ofa_kit.errors import RecipeError
from ofa_kit.nas.enas.macro_arc import find_macro_arc
from ofa_kit.nas.enas.macro_plan import MacroShape
from ofa_kit.nas.image_recipe import ImageRecipe


@dataclass(frozen=True, kw_only=True)
class MacroNetworkRecipe(ImageRecipe):
    """The defaults are those of the authors' script for CIFAR-10 (Pham et al. 2018)."""

    macro_arc: str
    """A preset's name, a file with rows of numbers, or these numbers."""
    channels: int = 96
    epochs: int = 310
    batch_size: int = 100
    lr: float = 0.05
    schedule: Literal["cosine", "linear", "restarts"] = "restarts"
    lr_min: float = 1e-3
    nesterov: bool = True
    weight_decay: float = 2e-4
    dropout: float = 0.5

    @classmethod
    def parse(cls, values: Mapping[str, Any], source: str) -> "MacroNetworkRecipe":
        """Check the values; an OfaKitError says what is wrong."""
        if not isinstance(values, Mapping) or "macro_arc" not in values:
            raise RecipeError(f"{source}: no macro_arc; give --macro-arc NAME, FILE or its numbers")
        recipe = parse(cls, values, source)
        find_macro_arc(recipe.macro_arc)
        recipe.check(source)
        return recipe

    def shape(self, info: DatasetInfo) -> MacroShape:
        """Return the shape of the network on such data."""
        return MacroShape(
            layers=len(find_macro_arc(self.macro_arc).layers),
            channels=self.channels,
            in_channels=info.in_channels,
            num_classes=info.num_classes,
            image_size=info.image_size,
        )
