"""EnasRecipe: what decides every search of images by shared weights, as read from profiles/recipes/enas-*.yaml."""

from dataclasses import dataclass, replace
from typing import Literal

from ofa_kit.config import refuse_below, refuse_not_above
from ofa_kit.errors import RecipeError
from ofa_kit.nas.reinforce.policy import PolicyRecipe
from ofa_kit.nas.reinforce.recipe import ControllerRecipe

CONTROLLER_BETA1, CONTROLLER_EPS = 0.0, 1e-3
"""Of Adam, in the authors' code."""


@dataclass(frozen=True, kw_only=True)
class EnasRecipe(ControllerRecipe):
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
    network_channels: int = 36
    """Channels of the network that the result is for: its latency counts."""
    seed: int = 0
    checkpoint_s: float = 60.0
    """Seconds between checkpoints, besides those at the end of each epoch."""
    workers: int = 0
    """Processes that load and augment images."""
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"

    def check(self, source: str) -> None:
        super().check(source)
        at_least_one = ("image_size", "epochs", "batch_size", "restart_epochs", "restart_factor", "network_channels")
        refuse_below(1, self, (*at_least_one, "controller_updates", "controller_samples", "derive_samples"), source)
        not_negative = ("images", "reward_images", "lr_min", "momentum", "weight_decay", "clip_grad_norm", "seed")
        refuse_below(0, self, (*not_negative, "checkpoint_s", "workers"), source)
        refuse_not_above(0, self, ("lr",), source)
        if not 0 <= self.dropout < 1:
            raise RecipeError(f"{source}: dropout must be in 0..1 (1 excluded), found {self.dropout}")
        if not 0 < self.held_out < 1:
            raise RecipeError(f"{source}: held_out must be between 0 and 1, found {self.held_out}")

    @property
    def policy(self) -> PolicyRecipe:
        return replace(super().policy, beta1=CONTROLLER_BETA1, eps=CONTROLLER_EPS)
