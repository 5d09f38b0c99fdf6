"""DartsRecipe: everything that decides a DARTS search, as read from profiles/recipes/darts-*.yaml."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ofa_kit.config import parse, refuse_below, refuse_not_above
from ofa_kit.errors import RecipeError
from ofa_kit.nas.cells.network import CellNetworkShape
from ofa_kit.nas.cells.plan import Stem
from ofa_kit.nas.darts.gradients import Order


@dataclass(frozen=True, kw_only=True)
class DartsRecipe:
    """How cells are searched; the defaults are the paper's (Liu et al. 2019, sec. 3.1)."""

    data: str = "digits"
    images: int = 0
    """Training images used, half for the weights and half for the alphas; 0 = all."""
    image_size: int = 32
    """Photos of different sizes are cropped to so many pixels; small square images keep their own size."""
    stem: Stem = "small-images"
    cells: int = 8
    channels: int = 16
    """Channels of a node in the first cells; each reduction doubles them."""
    nodes: int = 4
    order: Order = "second"
    """Gradient of the alphas: `first` holds the weights fixed; `second` looks through one step of theirs by finite
    difference, as the paper; `exact` does so by double backward, with more memory."""
    epochs: int = 50
    batch_size: int = 64
    lr: float = 0.025
    lr_min: float = 0.001
    """The rate of the weights falls to it along a cosine."""
    momentum: float = 0.9
    weight_decay: float = 3e-4
    clip_grad_norm: float = 5.0
    """Bound of the norm of the weights' gradient; 0 = none."""
    alpha_lr: float = 3e-4
    alpha_weight_decay: float = 1e-3
    warmup_epochs: int = 0
    """Epochs at the start in which the weights learn alone (15 in PC-DARTS)."""
    partial_channels: int = 1
    """Only one in so many channels is mixed, and edges are scored too (PC-DARTS, Xu et al. 2020); 1 = all."""
    max_skips: int | None = None
    """Stop when the normal cell would have more skip-connections, and keep the cells of the epoch before (after DARTS+,
    Liang et al. 2019); null = never."""
    selection: Literal["shares", "perturbation"] = "shares"
    """How cells are derived: the largest shares, or what the network misses most (DARTS-PT, Wang et al. 2021)."""
    perturbation_images: int = 512
    """Of `perturbation`: images of the alphas' half on which each loss is measured."""
    tune_steps: int = 20
    """Of `perturbation`: steps that the weights learn on after each decided edge."""
    device: str = ""
    """Device profile on which operations and the found network are timed; "" = none."""
    latency_weight: float = 0.0
    """Loss for each ms of expected latency or, with a target, for each length of it while derived cells exceed it."""
    latency_target_ms: float | None = None
    network_cells: int = 20
    """Cells and channels of the network that the genotype is for: its latency counts."""
    network_channels: int = 36
    seed: int = 0
    checkpoint_s: float = 60.0
    """Seconds between checkpoints, besides those at the end of each epoch."""
    workers: int = 0
    """Processes that load and augment images, for each half."""
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"

    @classmethod
    def parse(cls, values: Mapping[str, Any], source: str) -> "DartsRecipe":
        """Check the values; a RecipeError or UnknownNameError says what is wrong."""
        recipe = parse(cls, values, source)
        at_least_one = ("image_size", "cells", "channels", "nodes", "epochs", "batch_size", "partial_channels")
        refuse_below(1, recipe, (*at_least_one, "perturbation_images", "network_cells", "network_channels"), source)
        not_negative = ("images", "lr_min", "momentum", "weight_decay", "clip_grad_norm", "alpha_weight_decay", "seed")
        refuse_below(0, recipe, (*not_negative, "warmup_epochs", "tune_steps", "latency_weight"), source)
        refuse_below(0, recipe, ("checkpoint_s", "workers"), source)
        if recipe.max_skips is not None:
            refuse_below(0, recipe, ("max_skips",), source)
        refuse_not_above(0, recipe, ("lr", "alpha_lr"), source)
        if recipe.warmup_epochs >= recipe.epochs:
            raise RecipeError(f"{source}: warmup_epochs {recipe.warmup_epochs} leave no epoch of {recipe.epochs}")
        if recipe.latency_weight and not recipe.device:
            raise RecipeError(f"{source}: latency_weight needs a device to measure on; give --device NAME")
        if recipe.latency_target_ms is not None:
            if not recipe.latency_weight:
                raise RecipeError(f"{source}: latency_target_ms needs latency_weight above 0; give --latency-weight 1")
            if not recipe.latency_target_ms > 0:
                raise RecipeError(f"{source}: latency_target_ms must be above 0, found {recipe.latency_target_ms}")
        return recipe

    def search_shape(self, in_channels: int, num_classes: int, image_size: int) -> CellNetworkShape:
        """Return the search network's shape on such data."""
        return CellNetworkShape(
            cells=self.cells,
            channels=self.channels,
            in_channels=in_channels,
            num_classes=num_classes,
            image_size=image_size,
            stem=self.stem,
        )
