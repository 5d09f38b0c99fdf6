"""Neighbours of genomes: every single change of a choice, and every pair of them.

A change is a row of the genes that it sets. One that deepens a stage comes in as many versions as there are choices of
a block, which all new blocks then take.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from ofa_kit.arch.genes import SKIPPED, Genomes
from ofa_kit.arch.space import SearchSpace

KEPT = -2
"""In a row of genes: the gene stays as it is."""


@dataclass(frozen=True)
class Moves:
    """All single changes of a space, whatever genome they are applied to."""

    space: SearchSpace
    genes: Genomes
    """(M, length): what each sets, KEPT elsewhere."""
    fills: Genomes
    """(M, length): what it gives to genes that were skipped."""

    def apply(self, genomes: Genomes, moves: NDArray[np.int64]) -> Genomes:
        """Return each genome (N, length) after the change of the same row of `moves` (N,)."""
        genes = self.genes[moves]
        changed = np.where(genes == KEPT, genomes, genes)
        return self.space.canonical(np.where(changed == SKIPPED, self.fills[moves], changed))

    def of(self, genome: NDArray[np.int64]) -> tuple[NDArray[np.int64], Genomes]:
        """Return the changes (K,) that make a genome (length,) another one, and what it becomes, (K, length)."""
        every = np.arange(len(self.genes))
        changed = self.apply(np.repeat(genome[None], len(every), axis=0), every)
        other = np.flatnonzero((changed != genome).any(axis=1))
        first = np.sort(np.unique(changed[other], axis=0, return_index=True)[1])
        return every[other[first]], changed[other[first]]


@lru_cache(maxsize=16)
def moves_of(space: SearchSpace) -> Moves:
    """Return the single changes of a space."""
    genes: list[NDArray[np.int64]] = []
    fills: list[NDArray[np.int64]] = []
    for position, gene in enumerate(space.genes):
        for choice in range(len(gene.choices)):
            row = np.full(space.genome_length, KEPT, dtype=np.int64)
            row[position] = choice
            versions = _block_fills(space, gene.stage) if gene.kind == "depth" else [np.zeros_like(row)]
            genes += [row] * len(versions)
            fills += versions
    return Moves(space, np.array(genes), np.array(fills))


def _block_fills(space: SearchSpace, stage: int) -> list[NDArray[np.int64]]:
    """Return a row for each choice of a block, given to every block of the stage."""
    blocks = [(position, gene) for position, gene in enumerate(space.genes) if gene.block_of is not None]
    inside = [(position, gene) for position, gene in blocks if gene.stage == stage]
    kinds = sorted({gene.kind for _, gene in inside})
    most = [max(len(gene.choices) for _, gene in inside if gene.kind == kind) for kind in kinds]
    rows = []
    for chosen in product(*map(range, most)):
        row = np.zeros(space.genome_length, dtype=np.int64)
        for position, gene in inside:
            row[position] = min(chosen[kinds.index(gene.kind)], len(gene.choices) - 1)
        rows.append(row)
    return rows
