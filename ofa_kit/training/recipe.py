"""Recipe: everything that decides a training run, as read from profiles/recipes/*.yaml."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from ofa_kit.arch.presets import preset
from ofa_kit.config import parse
from ofa_kit.errors import RecipeError

Method = Literal["sandwich", "progressive-shrinking", "single-path"]


@dataclass(frozen=True, kw_only=True)
class PhaseRecipe:
    """One phase of progressive shrinking: the largest choices of each kind that are trained, and for how long."""

    name: str
    epochs: int
    lr: float
    kernel_sizes: int = 1
    """Number of largest kernel sizes; 1 = only the largest."""
    depths: int = 1
    expand_ratios: int = 1
    subnets: int = 1
    """Random subnets a step."""
    warmup_epochs: int = 0
    sort_channels: bool = False
    """Put important channels first before the phase starts."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a supernet is trained."""

    space: str
    data: str = "digits"
    method: Method = "sandwich"
    epochs: int = 20
    batch_size: int = 64
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 3e-5
    """Not applied to biases and batch norm."""
    schedule: Literal["cosine", "exponential"] = "cosine"
    """`exponential` decays by 3 % every 2.4 epochs and stays constant at 5 % of lr (Yu et al. 2020)."""
    warmup_epochs: int = 1
    label_smoothing: float = 0.1
    ema_decay: float = 0.0
    """Decay of the exponential moving average of the weights; 0 = none."""
    num_random: int = 2
    """Random subnets of a sandwich step, beside the largest and the smallest."""
    phases: tuple[PhaseRecipe, ...] = ()
    """Of progressive shrinking; () derives OFA's phases from `epochs` and `lr`."""
    seed: int = 0
    eval_every: int = 1
    """Epochs between validations of the smallest and the largest subnet."""
    calibration_images: int = 2000
    validation_images: int = 2000
    """Validation images used while training; 0 = all."""
    checkpoint_s: float = 60.0
    """Seconds between checkpoints, besides those at the end of each epoch."""
    workers: int = 0

    @classmethod
    def parse(cls, values: Mapping[str, Any], source: str) -> "Recipe":
        """Check the values; a RecipeError or UnknownNameError says what is wrong."""
        if not isinstance(values, Mapping):
            raise RecipeError(f"{source}: expected 'key: value' lines, found {values!r}")
        if "space" not in values:
            raise RecipeError(f"{source}: no space; add `space: NAME` or give --space")
        recipe = parse(cls, values, source)
        preset(recipe.space)
        _refuse_below(1, recipe, ("epochs", "batch_size", "eval_every", "calibration_images"), source)
        _refuse_below(0, recipe, ("seed", "num_random", "weight_decay", "momentum", "warmup_epochs"), source)
        _refuse_below(0, recipe, ("validation_images", "checkpoint_s", "workers"), source)
        for phase in recipe.phases:
            counts = ("epochs", "subnets", "kernel_sizes", "depths", "expand_ratios")
            _refuse_below(1, phase, counts, f"{source}, phase {phase.name}")
        if len({phase.name for phase in recipe.phases}) < len(recipe.phases):
            raise RecipeError(f"{source}: phases must have different names")
        if recipe.phases and recipe.method != "progressive-shrinking":
            raise RecipeError(f"{source}: phases belong to the method progressive-shrinking, found {recipe.method}")
        for lr in (recipe.lr, *(phase.lr for phase in recipe.phases)):
            if not 0 < lr < math.inf:
                raise RecipeError(f"{source}: lr must be above 0, found {lr}")
        if not 0 <= recipe.ema_decay < 1 or not 0 <= recipe.label_smoothing < 1:
            raise RecipeError(f"{source}: ema_decay and label_smoothing must be in 0..1 (1 excluded)")
        return recipe


def with_settings(values: Mapping[str, Any], settings: list[str]) -> dict[str, Any]:
    """Return the recipe values with `key=value` settings put over them."""
    result = dict(values)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise RecipeError(f"--set takes key=value, found '{setting}'")
        try:
            result[key.strip()] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise RecipeError(f"--set {key}: '{text}' is not a YAML value") from error
    return result


def _refuse_below(least: int, settings: object, keys: tuple[str, ...], source: str) -> None:
    for key in keys:
        if not getattr(settings, key) >= least:
            raise RecipeError(f"{source}: {key} must be at least {least}, found {getattr(settings, key)}")
