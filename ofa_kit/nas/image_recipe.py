"""ImageRecipe: how a network is trained from scratch on images, whatever the network is."""

from dataclasses import dataclass
from typing import Literal

from ofa_kit.config import refuse_below, refuse_not_above
from ofa_kit.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class ImageRecipe:
    """Recipes that inherit this say which network it is, and have its paper's defaults."""

    data: str = "cifar10"
    images: int = 0
    """Training images used; 0 = all."""
    image_size: int = 32
    """Photos of different sizes are cropped to so many pixels; small square images keep their own size."""
    channels: int
    """Of the first part; what halves the size doubles them."""
    epochs: int
    batch_size: int
    lr: float
    schedule: Literal["cosine", "linear", "restarts"] = "cosine"
    """The first two end at 0; `restarts` are cosines to `lr_min`, each twice as long as the one before (ENAS's)."""
    lr_min: float = 0.0
    restart_epochs: int = 10
    """Length of the first of `restarts`."""
    warmup_epochs: int = 0
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float
    clip_grad_norm: float = 5.0
    label_smoothing: float = 0.0
    dropout: float = 0.0
    """Of the features before the classifier."""
    cutout: int = 0
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

    def check(self, source: str) -> None:
        """Raise a RecipeError where a number cannot be."""
        at_least_one = ("image_size", "channels", "epochs", "batch_size", "eval_every", "restart_epochs")
        refuse_below(1, self, at_least_one, source)
        not_negative = ("images", "warmup_epochs", "lr_min", "momentum", "weight_decay", "clip_grad_norm", "cutout")
        refuse_below(0, self, (*not_negative, "seed", "checkpoint_s", "workers"), source)
        refuse_not_above(0, self, ("lr",), source)
        if self.schedule == "restarts" and self.warmup_epochs:
            raise RecipeError(f"{source}: restarts have no warm-up; leave out warmup_epochs")
        if self.schedule != "restarts" and self.lr_min:
            raise RecipeError(f"{source}: lr_min belongs to schedule: restarts; {self.schedule} ends at 0")
        if self.nesterov and not self.momentum:
            raise RecipeError(f"{source}: nesterov needs momentum above 0")
        for key in ("dropout", "label_smoothing"):
            if not 0 <= getattr(self, key) < 1:
                raise RecipeError(f"{source}: {key} must be in 0..1 (1 excluded), found {getattr(self, key)}")
