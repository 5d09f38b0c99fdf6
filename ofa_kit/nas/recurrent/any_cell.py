"""Cells of either kind, highway nodes or trees, by their genotype: text form, module and number of weights."""

import torch

from ofa_kit.nas.recurrent.cell import GenotypeCell
from ofa_kit.nas.recurrent.genotype import RecurrentGenotype, read_genotype, write_genotype
from ofa_kit.nas.recurrent.language_model import LanguageModel, genotype_params, tree_params
from ofa_kit.nas.recurrent.tree import TreeGenotype, read_tree, write_tree
from ofa_kit.nas.recurrent.tree_cell import TreeCell

AnyGenotype = RecurrentGenotype | TreeGenotype
FoundCell = GenotypeCell | TreeCell
"""Cells that hold their genotype."""


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
