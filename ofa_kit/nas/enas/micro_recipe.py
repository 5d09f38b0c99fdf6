"""MicroRecipe: everything that decides a micro search, as read from profiles/recipes/enas-micro-*.yaml."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ofa_kit.config import parse, refuse_below
from ofa_kit.data.dataset import DatasetInfo
from ofa_kit.errors import RecipeError
from ofa_kit.nas.cells.network import CellNetworkShape
from ofa_kit.nas.cells.plan import Stem
from ofa_kit.nas.reinforce.policy import PolicyRecipe
from ofa_kit.nas.reinforce.reward import SOFT_WEIGHT, LatencyTerm

CONTROLLER_BETA1, CONTROLLER_EPS = 0.0, 1e-3
"""Of Adam, in the authors' code."""


@dataclass(frozen=True, kw_only=True)
class MicroRecipe:
    """How cells are searched; the defaults are the paper's and, where it is silent, those of the authors' code."""

    kind: Literal["micro"] = "micro"
    data: str = "digits"
    images: int = 0
    """Training images used; 0 = all."""
    held_out: float = 0.1
    """Share of them that rewards are measured on; the child learns from the others."""
    image_size: int = 32
    """Photos of different sizes are cropped to so many pixels; small square images keep their own size."""
    stem: Stem = "small-images"
    cells: int = 8
    """Of the child: 6 and the two that halve the size."""
    channels: int = 20
    """Channels of a node in the first cells; each reduction doubles them."""
    nodes: int = 5
    epochs: int = 150
    """Each trains the child on its images once, then the controller."""
    batch_size: int = 160
    lr: float = 0.05
    lr_min: float = 5e-4
    """The child's rate falls to it along a cosine, again and again."""
    restart_epochs: int = 10
    """Length of the first cosine; each further one is `restart_factor` times as long."""
    restart_factor: int = 2
    momentum: float = 0.9
    """Nesterov's. Weights that a step does not use stay as they are."""
    weight_decay: float = 1e-4
    clip_grad_norm: float = 5.0
    """Bound of the norm of the child's gradient; 0 = none."""
    dropout: float = 0.1
    """Of the features before the child's classifier, in training."""
    auxiliary_weight: float = 0.0
    """Weight of the loss of the child's auxiliary head; 0 = no such head."""
    controller_lr: float = 3.5e-4
    """The paper's; the authors' script has 3.5e-3."""
    controller_updates: int = 30
    """Of each epoch."""
    controller_samples: int = 10
    """Cells judged for each update, all on the same batch of held-out images."""
    reward_images: int = 160
    """Held-out images of a batch."""
    entropy_weight: float = 1e-4
    baseline_decay: float = 0.99
    derive_samples: int = 100
    """Cells sampled at the end and judged on all held-out images."""
    device: str = ""
    """Device profile on which operations and the found network are timed; "" = none."""
    latency_target_ms: float | None = None
    """The reward is the accuracy times (predicted latency / target) ** latency_weight; null: the accuracy."""
    latency_weight: float = SOFT_WEIGHT
    latency_hard: bool = False
    """Instead: no reward above the target."""
    network_cells: int = 17
    """Cells and channels of the network that the genotype is for: its latency counts."""
    network_channels: int = 36
    seed: int = 0
    checkpoint_s: float = 60.0
    """Seconds between checkpoints, besides those at the end of each epoch."""
    workers: int = 0
    """Processes that load and augment images."""
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"

    @classmethod
    def parse(cls, values: Mapping[str, Any], source: str) -> "MicroRecipe":
        """Check the values; a RecipeError or UnknownNameError says what is wrong."""
        recipe = parse(cls, values, source)
        at_least_one = ("image_size", "cells", "channels", "nodes", "epochs", "batch_size", "restart_epochs")
        refuse_below(
            1,
            recipe,
            (*at_least_one, "restart_factor", "controller_samples", "reward_images", "derive_samples"),
            source,
        )
        refuse_below(1, recipe, ("network_cells", "network_channels", "controller_updates"), source)
        not_negative = ("images", "lr_min", "momentum", "weight_decay", "clip_grad_norm", "auxiliary_weight", "seed")
        refuse_below(0, recipe, (*not_negative, "entropy_weight", "checkpoint_s", "workers"), source)
        for key in ("lr", "controller_lr"):
            if not 0 < getattr(recipe, key) < math.inf:
                raise RecipeError(f"{source}: {key} must be above 0, found {getattr(recipe, key)}")
        for key in ("dropout", "baseline_decay"):
            if not 0 <= getattr(recipe, key) < 1:
                raise RecipeError(f"{source}: {key} must be in 0..1 (1 excluded), found {getattr(recipe, key)}")
        if not 0 < recipe.held_out < 1:
            raise RecipeError(f"{source}: held_out must be between 0 and 1, found {recipe.held_out}")
        if recipe.latency_term is not None and not recipe.device:
            raise RecipeError(f"{source}: latency_target_ms needs a device to measure on; give --device NAME")
        if recipe.latency_target_ms is None and (recipe.latency_hard or recipe.latency_weight != SOFT_WEIGHT):
            raise RecipeError(f"{source}: latency_weight and latency_hard need latency_target_ms; give --latency-ms")
        return recipe

    @property
    def policy(self) -> PolicyRecipe:
        """Return how the controller learns."""
        return PolicyRecipe(
            lr=self.controller_lr,
            beta1=CONTROLLER_BETA1,
            eps=CONTROLLER_EPS,
            entropy_weight=self.entropy_weight,
            baseline_decay=self.baseline_decay,
        )

    @property
    def latency_term(self) -> LatencyTerm | None:
        """Return what the latency does to rewards."""
        return LatencyTerm.of(self.latency_target_ms, self.latency_weight, hard=self.latency_hard)

    def child_shape(self, info: DatasetInfo) -> CellNetworkShape:
        """Return the child's shape on such data."""
        return self._shape(info, self.cells, self.channels)

    def network_shape(self, info: DatasetInfo) -> CellNetworkShape:
        """Return the shape of the network that the cells are for."""
        return self._shape(info, self.network_cells, self.network_channels)

    def _shape(self, info: DatasetInfo, cells: int, channels: int) -> CellNetworkShape:
        return CellNetworkShape(
            cells=cells,
            channels=channels,
            in_channels=info.in_channels,
            num_classes=info.num_classes,
            image_size=info.image_size,
            stem=self.stem,
            layout="enas",
        )
