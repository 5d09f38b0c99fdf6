"""NasRlRecipe: a search of convolutional networks by NAS-RL, as read from profiles/recipes/nas-rl-*.yaml."""

from dataclasses import dataclass
from typing import Literal

from ofa_kit.config import refuse_below, refuse_not_above
from ofa_kit.data.dataset import DatasetInfo
from ofa_kit.errors import RecipeError
from ofa_kit.nas.nas_rl.conv_net import ChildShape
from ofa_kit.nas.nas_rl.space import ConvSpace
from ofa_kit.nas.reinforce.recipe import ControllerRecipe


@dataclass(frozen=True, kw_only=True)
class NasRlRecipe(ControllerRecipe):
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
    baseline_decay: float = 0.95
    """The paper gives none."""
    memory_mb: int = 0
    """MiB that a child may take beyond what its process holds before; 0 = no limit. One that needs more has failed."""
    final_epochs: int = 300
    """Epochs in which the best child is trained again, from new weights, with a cosine schedule."""
    seed: int = 0
    checkpoint_s: float = 60.0
    """Seconds between checkpoints of that training."""
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"

    def check(self, source: str) -> None:
        super().check(source)
        at_least_one = ("image_size", "layers", "children", "round_size", "epochs", "batch_size", "reward_epochs")
        refuse_below(1, self, (*at_least_one, "controller_hidden", "controller_layers", "final_epochs"), source)
        not_negative = ("images", "deepen_by", "deepen_every", "momentum", "weight_decay", "seed")
        refuse_below(0, self, (*not_negative, "memory_mb", "checkpoint_s"), source)
        refuse_not_above(0, self, ("lr", "controller_bound", "reward_power"), source)
        self._check_space(source)

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

    def depth_after(self, children: int) -> int:
        """Return the layers of the networks that are sampled after so many children."""
        return self.layers + (self.deepen_by * (children // self.deepen_every) if self.deepen_every else 0)

    def shape(self, info: DatasetInfo) -> ChildShape:
        """Return the shape of children on such data."""
        return ChildShape(in_channels=info.in_channels, image_size=info.image_size, num_classes=info.num_classes)
