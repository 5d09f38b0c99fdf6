"""EnasRecipe: what decides every search of images by shared weights, as read from profiles/recipes/enas-*.yaml."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from ofa_kit.config import parse, refuse_below
from ofa_kit.errors import RecipeError
from ofa_kit.nas.reinforce.policy import PolicyRecipe
from ofa_kit.nas.reinforce.reward import SOFT_WEIGHT, LatencyTerm

CONTROLLER_BETA1, CONTROLLER_EPS = 0.0, 1e-3
"""Of Adam, in the authors' code."""


@dataclass(frozen=True, kw_only=True)
class EnasRecipe:
    """The defaults are the paper's and, where it is silent, those of the authors' code."""

    data: str = "digits"
    images: int = 0
    """Training images used; 0 = all."""
    held_out: float = 0.1
    """Share of them that rewards are measured on; the child learns from the others."""
    image_size: int = 32
    """Photos of different sizes are cropped to so many pixels; small square images keep their own size."""
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
    controller_lr: float = 3.5e-4
    """The paper's; the authors' script has 3.5e-3."""
    controller_updates: int = 30
    """Of each epoch."""
    controller_samples: int = 10
    """Architectures judged for each update, all on the same batch of held-out images."""
    reward_images: int = 0
    """Held-out images of a batch; 0 = as many as the child's batches have."""
    entropy_weight: float = 1e-4
    baseline_decay: float = 0.99
    derive_samples: int = 100
    """Architectures sampled at the end and judged on all held-out images."""
    device: str = ""
    """Device profile on which operations and the found network are timed; "" = none."""
    latency_target_ms: float | None = None
    """The reward is the accuracy times (predicted latency / target) ** latency_weight; null: the accuracy."""
    latency_weight: float = SOFT_WEIGHT
    latency_hard: bool = False
    """Instead: no reward above the target."""
    network_channels: int = 36
    """Channels of the network that the result is for: its latency counts."""
    seed: int = 0
    checkpoint_s: float = 60.0
    """Seconds between checkpoints, besides those at the end of each epoch."""
    workers: int = 0
    """Processes that load and augment images."""
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"

    @classmethod
    def parse(cls, values: Mapping[str, Any], source: str) -> Self:
        """Check the values; a RecipeError or UnknownNameError says what is wrong."""
        recipe = parse(cls, values, source)
        recipe.check(source)
        return recipe

    def check(self, source: str) -> None:
        """Raise a RecipeError where a number cannot be."""
        at_least_one = ("image_size", "epochs", "batch_size", "restart_epochs", "restart_factor", "network_channels")
        refuse_below(1, self, (*at_least_one, "controller_updates", "controller_samples", "derive_samples"), source)
        not_negative = ("images", "reward_images", "lr_min", "momentum", "weight_decay", "clip_grad_norm", "seed")
        refuse_below(0, self, (*not_negative, "entropy_weight", "checkpoint_s", "workers"), source)
        for key in ("lr", "controller_lr"):
            if not 0 < getattr(self, key) < math.inf:
                raise RecipeError(f"{source}: {key} must be above 0, found {getattr(self, key)}")
        for key in ("dropout", "baseline_decay"):
            if not 0 <= getattr(self, key) < 1:
                raise RecipeError(f"{source}: {key} must be in 0..1 (1 excluded), found {getattr(self, key)}")
        if not 0 < self.held_out < 1:
            raise RecipeError(f"{source}: held_out must be between 0 and 1, found {self.held_out}")
        if self.latency_term is not None and not self.device:
            raise RecipeError(f"{source}: latency_target_ms needs a device to measure on; give --device NAME")
        if self.latency_target_ms is None and (self.latency_hard or self.latency_weight != SOFT_WEIGHT):
            raise RecipeError(f"{source}: latency_weight and latency_hard need latency_target_ms; give --latency-ms")

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
