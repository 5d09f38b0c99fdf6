"""CellsRecipe: how the network of a genotype is trained from scratch, as read from profiles/recipes/cells-*.yaml."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ofa_kit.config import parse, refuse_below
from ofa_kit.data.dataset import DatasetInfo
from ofa_kit.errors import RecipeError
from ofa_kit.nas.cells.network import CellNetworkShape
from ofa_kit.nas.cells.plan import Layout, Stem
from ofa_kit.nas.cells.presets import find_genotype


@dataclass(frozen=True, kw_only=True)
class CellsRecipe:
    """The defaults are the paper's on CIFAR-10 (Liu et al. 2019, sec. 3.2)."""

    genotype: str
    """A preset's name, a file with a text form, or the text itself: `Genotype(...)` or an arc of ENAS."""
    data: str = "cifar10"
    images: int = 0
    """Training images used; 0 = all."""
    image_size: int = 32
    """Photos of different sizes are cropped to so many pixels; small square images keep their own size."""
    stem: Stem = "small-images"
    layout: Layout = "darts"
    """Whose network the cells stand in."""
    cells: int = 20
    channels: int = 36
    epochs: int = 600
    batch_size: int = 96
    lr: float = 0.025
    schedule: Literal["cosine", "linear", "restarts"] = "cosine"
    """The first two end at 0; `restarts` are cosines to `lr_min`, each twice as long as the one before (ENAS's)."""
    lr_min: float = 0.0
    restart_epochs: int = 10
    """Length of the first of `restarts`."""
    warmup_epochs: int = 0
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 3e-4
    clip_grad_norm: float = 5.0
    label_smoothing: float = 0.0
    drop_path: float = 0.2
    """Probability in the last epoch; it grows linearly from 0 and, in ENAS's layout, from cell to cell."""
    dropout: float = 0.0
    """Of the features before the classifier."""
    auxiliary_weight: float = 0.4
    """Weight of the auxiliary head's loss; 0 = no such head."""
    cutout: int = 16
    """Side of the blanked square in pixels; 0 = none."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: PyTorch's automatic mixed precision."""
    eval_every: int = 1
    """Epochs between validations."""
    device: str = ""
    """Device profile on which the trained network is timed; "" = none."""
    seed: int = 0
    checkpoint_s: float = 60.0
    workers: int = 0
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"

    @classmethod
    def parse(cls, values: Mapping[str, Any], source: str) -> "CellsRecipe":
        """Check the values; an OfaKitError says what is wrong."""
        if not isinstance(values, Mapping) or "genotype" not in values:
            raise RecipeError(f"{source}: no genotype; give --genotype NAME, FILE or 'Genotype(...)'")
        recipe = parse(cls, values, source)
        find_genotype(recipe.genotype)
        at_least_one = ("image_size", "cells", "channels", "epochs", "batch_size", "eval_every", "restart_epochs")
        refuse_below(1, recipe, at_least_one, source)
        not_negative = ("images", "warmup_epochs", "lr_min", "momentum", "weight_decay", "clip_grad_norm", "cutout")
        refuse_below(0, recipe, (*not_negative, "auxiliary_weight", "seed", "checkpoint_s", "workers"), source)
        if not 0 < recipe.lr < math.inf:
            raise RecipeError(f"{source}: lr must be above 0, found {recipe.lr}")
        if recipe.schedule == "restarts" and recipe.warmup_epochs:
            raise RecipeError(f"{source}: restarts have no warm-up; leave out warmup_epochs")
        if recipe.schedule != "restarts" and recipe.lr_min:
            raise RecipeError(f"{source}: lr_min belongs to schedule: restarts; {recipe.schedule} ends at 0")
        if recipe.nesterov and not recipe.momentum:
            raise RecipeError(f"{source}: nesterov needs momentum above 0")
        for key in ("drop_path", "dropout", "label_smoothing"):
            if not 0 <= getattr(recipe, key) < 1:
                raise RecipeError(f"{source}: {key} must be in 0..1 (1 excluded), found {getattr(recipe, key)}")
        return recipe

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
