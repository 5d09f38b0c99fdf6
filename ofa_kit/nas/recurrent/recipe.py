"""RecurrentRecipe: all that decides a search of a recurrent cell and the training of what it finds."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from ofa_kit.config import find_profile, parse, read_yaml
from ofa_kit.data.text_vocabulary import Level
from ofa_kit.errors import RecipeError
from ofa_kit.nas.recurrent.dropout import DropoutRates

FOLDER = "recipes/recurrent"
DROPOUT = DropoutRates(embedded=0.2, cell_input=0.75, cell_state=0.25, output=0.75)
"""DARTS's rates on Penn Treebank, in search and in evaluation."""


@dataclass(frozen=True, kw_only=True)
class ReadingRecipe:
    """How a text is read and how the weights move, in search and in training; lr and clip are DARTS's."""

    hidden: int = 300
    """Features of the cell, of the embedding and of the classifier."""
    epochs: int = 50
    batch: int = 256
    """Columns of text side by side."""
    bptt: int = 35
    """Usual tokens of a segment: gradients go back no further."""
    deviation: float = 0.0
    """Standard deviation of a segment's tokens; 0 = `bptt`, now and then half of it."""
    lr: float = 20.0
    """SGD's, without momentum; scaled by each segment's length."""
    clip: float = 0.25
    """Bound of the norm of the gradient."""
    weight_decay: float = 5e-7
    change_penalty: float = 1e-3
    """Weight of the squared change of the output from token to token (beta)."""
    size_penalty: float = 0.0
    """Weight of the squared output (alpha of AWD-LSTM)."""
    init_range: float = 0.04
    """Weights start between minus and plus this."""
    dropout: DropoutRates = field(default_factory=lambda: DROPOUT)


@dataclass(frozen=True, kw_only=True)
class SearchRecipe(ReadingRecipe):
    """The search of DARTS (Liu et al. 2019, sec. 3.1.2 and A.1.2)."""

    nodes: int = 8
    order: Literal["first", "second", "exact"] = "second"
    """Gradient of the alphas: with fixed weights, or through one step of the weights (`exact` without the finite
    difference of `second`)."""
    alpha_lr: float = 3e-3
    alpha_weight_decay: float = 1e-3
    alpha_start: int = 0
    """Epochs in which the weights learn alone."""
    normalize: bool = True
    """Batch norm after each node of the search cell; the derived cell has none."""


@dataclass(frozen=True, kw_only=True)
class TrainRecipe(ReadingRecipe):
    """Training from scratch: SGD, and its average from the epoch on in which validation stops to gain (ASGD)."""

    hidden: int = 850
    epochs: int = 1600
    batch: int = 64
    deviation: float = 5.0
    weight_decay: float = 8e-7
    patience: int = 5
    """Averaging starts when validation is worse than its best of more than so many epochs ago."""


@dataclass(frozen=True, kw_only=True)
class TextRecipe:
    """What every search of a recurrent cell has beside the search: text, and training from scratch."""

    command: ClassVar[str] = "search darts-rnn"
    """What a run folder with such a recipe belongs to."""
    options: ClassVar[Mapping[str, str]] = {}
    """Keys by the short names that all searches of a command have for them."""

    data: str = "sonnets"
    """sonnets, shakespeare or text:PATH."""
    level: Level = "word"
    most_words: int = 10_000
    """Size of the vocabulary at most, <unk> included."""
    evaluation_batch: int = 10
    """Columns in which validation and test are read; each but the first starts without what was said before."""
    seed: int = 0
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    train: TrainRecipe = field(default_factory=TrainRecipe)

    @classmethod
    def parse(cls, values: Mapping[str, Any], source: str) -> Self:
        """Check the values; a RecipeError or UnknownNameError says what is wrong."""
        short = {name: value for name, value in values.items() if name in cls.options or "." in name}
        rest = {key: value for key, value in values.items() if key not in short}
        recipe = parse(cls, nested(rest, {cls.options.get(name, name): value for name, value in short.items()}), source)
        recipe.check(source)
        return recipe

    def check(self, source: str) -> None:
        """Raise a RecipeError where a number cannot be."""
        check_reading(self.train, f"{source}: train")
        if min(self.evaluation_batch, self.train.patience) < 1 or self.most_words < 2:
            raise RecipeError(f"{source}: evaluation_batch and patience must be at least 1, most_words 2")
        if self.seed < 0:
            raise RecipeError(f"{source}: seed must be at least 0, found {self.seed}")


@dataclass(frozen=True, kw_only=True)
class RecurrentRecipe(TextRecipe):
    """Text, search by DARTS and training."""

    search: SearchRecipe = field(default_factory=SearchRecipe)

    def check(self, source: str) -> None:
        check_reading(self.search, f"{source}: search")
        super().check(source)
        if self.search.nodes < 1:
            raise RecipeError(f"{source}: search.nodes must be at least 1, found {self.search.nodes}")
        if self.search.normalize and self.search.batch < 2:
            raise RecipeError(f"{source}: search.normalize needs a search.batch of at least 2, found 1")


def find_recipe(name: str) -> Path:
    """Return the YAML file that a name or a path means."""
    return find_profile(FOLDER, "recurrent recipe", name)


def read_recipe(name: str) -> tuple[dict[str, Any], str]:
    """Return the values of a recipe, by name or path, and where they come from."""
    path = find_recipe(name)
    return read_yaml(path), str(path)


def nested(values: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with settings such as `search.lr` put over them."""
    result = {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    for key, value in settings.items():
        *groups, last = key.split(".")
        place = result
        for group in groups:
            inner = place.get(group)
            place[group] = dict(inner) if isinstance(inner, Mapping) else {}
            place = place[group]
        place[last] = value
    return result


def check_reading(part: ReadingRecipe, source: str) -> None:
    """Raise a RecipeError where a number cannot be; `source` says which part of which recipe it is."""
    for key in ("hidden", "epochs", "batch", "bptt"):
        if getattr(part, key) < 1:
            raise RecipeError(f"{source}.{key} must be at least 1, found {getattr(part, key)}")
    for key in ("deviation", "weight_decay", "change_penalty", "size_penalty"):
        if not 0 <= getattr(part, key) < math.inf:
            raise RecipeError(f"{source}.{key} must be at least 0, found {getattr(part, key)}")
    for key in ("lr", "clip", "init_range"):
        if not 0 < getattr(part, key) < math.inf:
            raise RecipeError(f"{source}.{key} must be above 0, found {getattr(part, key)}")
    for key, rate in vars(part.dropout).items():
        if not 0 <= rate < 1:
            raise RecipeError(f"{source}.dropout.{key} must be in 0..1 (1 excluded), found {rate}")
