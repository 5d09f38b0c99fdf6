"""Recipe: everything that decides a training run, as read from profiles/recipes/*.yaml."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from ofa_kit.arch.space_file import find_space
from ofa_kit.config import parse, refuse_below
from ofa_kit.errors import RecipeError
from ofa_kit.training.rules import Preference

Method = Literal["sandwich", "progressive-shrinking", "single-path"]
METHOD_KEYS = {
    "sandwich": (
        "num_random",
        "distillation",
        "label_share",
        "preference",
        "num_candidates",
        "dropout",
        "drop_connect",
    ),
    "progressive-shrinking": ("phases",),
    "single-path": ("strict_fairness", "teacher"),
}
"""What only one method understands: elsewhere it would be ignored in silence."""


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
    widths: int | None = None
    """Number of largest stage widths; all where the space has them and nothing is said."""
    subnets: int = 1
    """Random subnets a step."""
    warmup_epochs: int = 0
    sort_channels: bool = False
    """Put important channels first before the phase starts."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a supernet is trained."""

    space: str
    """A shipped space by name, or a space file."""
    data: str = "digits"
    method: Method = "sandwich"
    epochs: int = 20
    batch_size: int = 64
    """Images of one step, those of all processes together."""
    accumulate: int = 1
    """Equal parts in which a process runs its images one after the other; batch statistics are each part's own."""
    optimizer: Literal["sgd", "adamw", "rmsprop"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 3e-5
    """Not applied to biases and batch norm."""
    schedule: Literal["cosine", "exponential", "linear"] = "cosine"
    """`cosine` and `linear` end at 0; `exponential` decays by 3 % every 2.4 epochs and stays constant at 5 % of lr (Yu
    et al. 2020)."""
    warmup_epochs: int = 1
    label_smoothing: float = 0.1
    dropout: float = 0.0
    """Share of dropped features before the classifier; on the largest subnet of a sandwich only (BigNAS)."""
    drop_connect: float = 0.0
    """Probability of skipping the last block, falling linearly to the first; on the largest subnet only."""
    zero_init_gamma: bool = False
    """Start blocks with a shortcut as identities: their last batch norm's gamma is 0."""
    bn_affine: bool = True
    """Whether batch norm learns gamma and beta; the supernet of SPOS does not (Guo et al. 2020)."""
    clip_grad_value: float = 0.0
    """Bound of each gradient element; 0 = none."""
    clip_grad_norm: float = 0.0
    """Bound of the norm of the whole gradient, the sum over the step's subnets; 0 = none."""
    ema_decay: float = 0.0
    """Decay of the exponential moving average of the weights; 0 = none."""
    num_random: int = 2
    """Random subnets of a sandwich step, beside the largest and the smallest."""
    distillation: Literal["soft-cross-entropy", "alpha-divergence"] = "soft-cross-entropy"
    """How subnets of a sandwich learn from the largest; `alpha-divergence` is AlphaNet's."""
    label_share: float = 0.0
    """Share of the true labels in what these subnets learn from; helps where the training is too short for the largest
    to become a good teacher early."""
    preference: Preference = "none"
    """Random subnets of a sandwich: uniform, or best or worst of `num_candidates` of the same MACs (AttentiveNAS)."""
    num_candidates: int = 3
    strict_fairness: bool = False
    """Of single-path: each step trains every choice equally often (FairNAS)."""
    teacher: str = ""
    """Of single-path: a trained run's folder, whose largest subnet teaches beside the labels; "" = labels alone."""
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
    """Processes that load and augment images; each keeps two batches ready."""
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["fp32", "bf16", "fp16", "fp64"] = "fp32"
    """bf16, fp16: PyTorch's automatic mixed precision; weights and batch norm stay fp32. fp64: for comparisons."""
    sync_batch_norm: bool = True
    """With several processes: batch statistics of the joined batch instead of each process's own."""
    compile: bool = False
    """Compile the subnets that every step trains (largest and smallest of a sandwich) with torch.compile."""
    tensorboard: bool = False
    """Also log to RUN/tensorboard (extra `tensorboard`)."""
    init_from: str = ""
    """Weights to start from: a run folder or a .safetensors file of the same space."""

    @classmethod
    def parse(cls, values: Mapping[str, Any], source: str) -> "Recipe":
        """Check the values; a RecipeError or UnknownNameError says what is wrong."""
        if not isinstance(values, Mapping):
            raise RecipeError(f"{source}: expected 'key: value' lines, found {values!r}")
        if "space" not in values:
            raise RecipeError(f"{source}: no space; add `space: NAME` or give --space")
        recipe = parse(cls, values, source)
        find_space(recipe.space)
        counts = ("epochs", "batch_size", "eval_every", "calibration_images", "accumulate", "num_candidates")
        refuse_below(1, recipe, counts, source)
        refuse_below(0, recipe, ("seed", "num_random", "weight_decay", "momentum", "warmup_epochs"), source)
        refuse_below(0, recipe, ("validation_images", "checkpoint_s", "workers"), source)
        refuse_below(0, recipe, ("clip_grad_value", "clip_grad_norm"), source)
        for phase in recipe.phases:
            least_one = ["epochs", "subnets", "kernel_sizes", "depths", "expand_ratios"]
            least_one += ["widths"] if phase.widths is not None else []
            refuse_below(1, phase, least_one, f"{source}, phase {phase.name}")
        if len({phase.name for phase in recipe.phases}) < len(recipe.phases):
            raise RecipeError(f"{source}: phases must have different names")
        for lr in (recipe.lr, *(phase.lr for phase in recipe.phases)):
            if not 0 < lr < math.inf:
                raise RecipeError(f"{source}: lr must be above 0, found {lr}")
        for key in ("ema_decay", "label_smoothing", "dropout", "drop_connect"):
            if not 0 <= getattr(recipe, key) < 1:
                raise RecipeError(f"{source}: {key} must be in 0..1 (1 excluded), found {getattr(recipe, key)}")
        if not 0 <= recipe.label_share <= 1:
            raise RecipeError(f"{source}: label_share must be in 0..1, found {recipe.label_share}")
        for method, keys in METHOD_KEYS.items():
            for key in keys:
                if recipe.method != method and getattr(recipe, key) != cls.__dataclass_fields__[key].default:
                    raise RecipeError(f"{source}: {key} belongs to the method {method}, found {recipe.method}")
        if recipe.zero_init_gamma and not recipe.bn_affine:
            raise RecipeError(f"{source}: zero_init_gamma needs bn_affine: a gamma that is not learned stays 0")
        if recipe.batch_size % recipe.accumulate:
            raise RecipeError(f"{source}: batch_size {recipe.batch_size} is no multiple of accumulate")
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
