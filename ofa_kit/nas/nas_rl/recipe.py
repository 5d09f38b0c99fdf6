"""NasRlRecipe: a search of convolutional networks by NAS-RL, as read from profiles/recipes/nas-rl-*.yaml."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ofa_kit.config import parse, refuse_below
from ofa_kit.data.dataset import DatasetInfo
from ofa_kit.errors import RecipeError
from ofa_kit.nas.nas_rl.conv_net import ChildShape
from ofa_kit.nas.nas_rl.space import ConvSpace
from ofa_kit.nas.reinforce.policy import PolicyRecipe
from ofa_kit.nas.reinforce.reward import SOFT_WEIGHT, LatencyTerm


@dataclass(frozen=True, kw_only=True)
class NasRlRecipe:
    """The defaults are the paper's on CIFAR-10 (Zoph & Le 2017, sec. 4.1), but for what it leaves open."""

    data: str = "cifar10"
    images: int = 0
    """Training images of a child; 0 = all."""
    image_size: int = 32
    """Photos of different sizes are cropped to so many pixels; small square images keep their own size."""
    filter_heights: tuple[int, ...] = (1, 3, 5, 7)
    filter_widths: tuple[int, ...] = (1, 3, 5, 7)
    stride_heights: tuple[int, ...] = (1,)
    """Choices such as 1, 2, 3; one choice is not decided."""
    stride_widths: tuple[int, ...] = (1,)
    filters: tuple[int, ...] = (24, 36, 48, 64)
    skips: bool = True
    """Whether layers choose what they read; else each reads the one before it."""
    layers: int = 6
    deepen_by: int = 2
    """Layers that are added after each `deepen_every` children; 0 = the depth stays."""
    deepen_every: int = 1600
    children: int = 12800
    round_size: int = 8
    """Children between two updates of the controller."""
    epochs: int = 50
    batch_size: int = 128
    lr: float = 0.1
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    momentum: float = 0.9
    """Nesterov's."""
    weight_decay: float = 1e-4
    reward_epochs: int = 5
    """A child's top-1 is the best of so many last epochs, on held-out images."""
    reward_power: float = 3.0
    """Reward = accuracy to this power, times the latency's factor."""
    controller_hidden: int = 35
    controller_layers: int = 2
    controller_bound: float = 0.08
    """Its weights begin uniform within plus and minus this."""
    controller_lr: float = 6e-4
    """Adam's."""
    baseline_decay: float = 0.95
    """Share of the old moving average of rewards that a round leaves; the paper gives none."""
    entropy_weight: float = 0.0
    device: str = ""
    """Device profile on which every child and the result are timed; "" = none."""
    latency_target_ms: float | None = None
    latency_weight: float = SOFT_WEIGHT
    """The reward is multiplied by (latency / target) to this power (Tan et al. 2019)."""
    latency_hard: bool = False
    """Children slower than the target get no reward, and are not trained; faster ones get the whole."""
    memory_mb: int = 0
    """MiB that a child may take beyond what its process holds before; 0 = no limit. One that needs more has failed."""
    final_epochs: int = 300
    """Epochs in which the best child is trained again, from new weights, with a cosine schedule."""
    seed: int = 0
    checkpoint_s: float = 60.0
    """Seconds between checkpoints of that training."""
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"

    @classmethod
    def parse(cls, values: Mapping[str, Any], source: str) -> "NasRlRecipe":
        """Check the values; a RecipeError or UnknownNameError says what is wrong."""
        recipe = parse(cls, values, source)
        at_least_one = ("image_size", "layers", "children", "round_size", "epochs", "batch_size", "reward_epochs")
        refuse_below(1, recipe, (*at_least_one, "controller_hidden", "controller_layers", "final_epochs"), source)
        not_negative = ("images", "deepen_by", "deepen_every", "momentum", "weight_decay", "entropy_weight", "seed")
        refuse_below(0, recipe, (*not_negative, "memory_mb", "checkpoint_s"), source)
        for key in ("lr", "controller_lr", "controller_bound", "reward_power"):
            if not 0 < getattr(recipe, key) < math.inf:
                raise RecipeError(f"{source}: {key} must be above 0, found {getattr(recipe, key)}")
        if not 0 <= recipe.baseline_decay < 1:
            raise RecipeError(f"{source}: baseline_decay must be in 0..1 (1 excluded), found {recipe.baseline_decay}")
        recipe._check_space(source)
        if recipe.latency_target_ms is not None and not recipe.device:
            raise RecipeError(f"{source}: latency_target_ms needs a device to measure on; give --device NAME")
        recipe.latency_term()
        return recipe

    def _check_space(self, source: str) -> None:
        keys = ("filter_heights", "filter_widths", "stride_heights", "stride_widths", "filters")
        for key, choices in zip(keys, self.space.kinds, strict=True):
            if not choices or len(set(choices)) < len(choices) or min(choices) < 1:
                raise RecipeError(f"{source}: {key} must list different numbers from 1 on, found {list(choices)}")
            if key.startswith("filter_") and any(side % 2 == 0 for side in choices):
                raise RecipeError(f"{source}: {key} must be odd, found {list(choices)}")
        if not self.space.open_kinds:
            raise RecipeError(f"{source}: every layer has one choice only; give {keys[0]} or others more of them")

    @property
    def space(self) -> ConvSpace:
        return ConvSpace(
            filter_heights=self.filter_heights,
            filter_widths=self.filter_widths,
            stride_heights=self.stride_heights,
            stride_widths=self.stride_widths,
            filters=self.filters,
            skips=self.skips,
        )

    @property
    def policy(self) -> PolicyRecipe:
        return PolicyRecipe(
            lr=self.controller_lr, entropy_weight=self.entropy_weight, baseline_decay=self.baseline_decay
        )

    def latency_term(self) -> LatencyTerm | None:
        """Return the latency's part in the reward."""
        return LatencyTerm.of(self.latency_target_ms, self.latency_weight, hard=self.latency_hard)

    def depth_after(self, children: int) -> int:
        """Return the layers of the networks that are sampled after so many children."""
        return self.layers + (self.deepen_by * (children // self.deepen_every) if self.deepen_every else 0)

    def shape(self, info: DatasetInfo) -> ChildShape:
        """Return the shape of children on such data."""
        return ChildShape(in_channels=info.in_channels, image_size=info.image_size, num_classes=info.num_classes)
