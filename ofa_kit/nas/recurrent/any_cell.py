"""Cells of either kind, highway nodes or trees, by their genotype: text form, module and number of weights."""

from pathlib import Path

import torch

from ofa_kit.errors import OfaKitError, UnknownNameError
from ofa_kit.nas.recurrent.cell import GenotypeCell
from ofa_kit.nas.recurrent.genotype import PRESETS, RecurrentGenotype, read_genotype, write_genotype
from ofa_kit.nas.recurrent.language_model import LanguageModel, genotype_params, tree_params
from ofa_kit.nas.recurrent.tree import PRESETS as TREES
from ofa_kit.nas.recurrent.tree import TreeGenotype, read_tree, write_tree
from ofa_kit.nas.recurrent.tree_cell import TreeCell

AnyGenotype = RecurrentGenotype | TreeGenotype
FoundCell = GenotypeCell | TreeCell
"""Cells that hold their genotype."""


def find_cell(name: str) -> AnyGenotype:
    """Return the genotype that a preset's name, a text or a file means."""
    known: dict[str, AnyGenotype] = {**PRESETS, **TREES}
    if name in known:
        return known[name]
    if "(" in name:
        return read_cell(name)
    if not Path(name).is_file():
        raise UnknownNameError("recurrent genotype, neither a text nor a file:", name, known)
    try:
        text = Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OfaKitError(f"cannot read the genotype in '{name}': {error}; give a text file") from error
    return read_cell(text)


def read_cell(text: str) -> AnyGenotype:
    """Return the genotype in a text; a WeightsError says what is none."""
    return read_tree(text) if "tree" in text else read_genotype(text)


def write_cell(genotype: AnyGenotype) -> str:
    """Return the text form."""
    return write_tree(genotype) if isinstance(genotype, TreeGenotype) else write_genotype(genotype)


def make_language_model(
    genotype: AnyGenotype, hidden: int, words: int, generator: torch.Generator, *, init_range: float = 0.04
) -> LanguageModel:
    """Return a fresh language model around the cell of a genotype."""
    cell: FoundCell
    if isinstance(genotype, TreeGenotype):
        cell = TreeCell(genotype, hidden, generator, init_range=init_range)
    else:
        cell = GenotypeCell(genotype, hidden, generator, init_range=init_range)
    return LanguageModel(cell, words, generator, init_range=init_range)


def params_of_cell(genotype: AnyGenotype, hidden: int, words: int) -> int:
    """Return the number of weights of a language model with a cell."""
    if isinstance(genotype, TreeGenotype):
        return tree_params(genotype.base, hidden, words)
    return genotype_params(len(genotype.nodes), hidden, words)
