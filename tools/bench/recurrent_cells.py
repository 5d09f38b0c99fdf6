"""Recurrent cells by name: searched by DARTS, ENAS or NAS-RL, drawn at random from the space of each, or published."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ofa_kit.cli.values import read_values
from ofa_kit.commands.search_enas_recurrent import search_by_enas
from ofa_kit.commands.search_recurrent_models import search_genotype
from ofa_kit.commands.search_rl_recurrent import search_by_rl
from ofa_kit.nas.enas import recurrent_controller
from ofa_kit.nas.enas.recurrent_recipe import EnasRecurrentRecipe
from ofa_kit.nas.nas_rl.recurrent_recipe import RlRecurrentRecipe
from ofa_kit.nas.recurrent import tree
from ofa_kit.nas.recurrent.any_cell import AnyGenotype
from ofa_kit.nas.recurrent.genotype import FUNCTIONS, PRESETS, RecurrentGenotype
from ofa_kit.nas.recurrent.recipe import RecurrentRecipe, TextRecipe, read_recipe
from ofa_kit.nas.recurrent.run import RecurrentRun
from ofa_kit.nas.recurrent.tree import PRESETS as TREES
from ofa_kit.nas.recurrent.tree import TreeGenotype
from ofa_kit.progress import Reporter

RANDOM, PAPER = "random-", "paper-"


def random_darts(rng: np.random.Generator, recipe: RecurrentRecipe) -> AnyGenotype:
    """Return a cell in whose space DARTS searches."""
    nodes = [(str(rng.choice(FUNCTIONS)), int(rng.integers(node))) for node in range(1, recipe.search.nodes + 1)]
    return RecurrentGenotype.of_all(nodes)


def random_enas(rng: np.random.Generator, recipe: EnasRecurrentRecipe) -> AnyGenotype:
    """Return a cell that ENAS's controller may choose."""
    sizes = [len(FUNCTIONS)]
    for node in range(1, recipe.search.nodes):
        sizes += [node, len(FUNCTIONS)]
    return recurrent_controller.from_tokens([int(rng.integers(size)) for size in sizes])


def random_tree(rng: np.random.Generator, recipe: RlRecurrentRecipe) -> AnyGenotype:
    """Return a tree that NAS-RL's controller may choose."""
    return tree.from_tokens([int(rng.integers(size)) for size in tree.token_sizes(recipe.search.base)])


@dataclass(frozen=True)
class Family:
    """A searcher and its space."""

    key: str
    """How settings of its search begin."""
    kind: type[TextRecipe]
    read: Callable[[str], dict[str, Any]]
    """Returns the values of its recipe of a name."""
    search: Callable[[RecurrentRun[Any], Reporter], AnyGenotype]
    draw: Callable[[np.random.Generator, Any], AnyGenotype]
    """Returns a cell drawn uniformly from the space of a recipe."""
    settings: Mapping[str, Any] = field(default_factory=dict)


def _darts(order: str) -> Family:
    def read(name: str) -> dict[str, Any]:
        return read_recipe(name)[0]

    return Family("darts", RecurrentRecipe, read, search_genotype, random_darts, {"search.order": order})


def _enas(name: str) -> dict[str, Any]:
    return read_values(f"enas-rnn-{name}", {}, [])[0]


def _nas_rl(name: str) -> dict[str, Any]:
    return read_values(f"nas-rl-rnn-{name}", {}, [])[0]


FAMILIES: Mapping[str, Family] = {
    "darts": _darts("first"),
    "darts-second": _darts("second"),
    "darts-exact": _darts("exact"),
    "enas": Family("enas", EnasRecurrentRecipe, _enas, search_by_enas, random_enas),
    "nas-rl": Family("nas-rl", RlRecurrentRecipe, _nas_rl, search_by_rl, random_tree),
}
PUBLISHED: Mapping[str, AnyGenotype] = {f"{PAPER}{name}": cell for name, cell in (PRESETS | TREES).items()}
CELLS = (*FAMILIES, *(RANDOM + name for name in ("darts", "enas", "nas-rl")), *PUBLISHED)
"""All names: searched, random, published."""


def family_of(name: str) -> Family:
    """Return the family in whose space a cell lies."""
    if name in PUBLISHED:
        return FAMILIES["nas-rl" if isinstance(PUBLISHED[name], TreeGenotype) else "darts"]
    return FAMILIES[name.removeprefix(RANDOM)]
