"""Coarse-to-fine search (BigNAS, Yu et al. 2020, sec. 3.5): a grid of shared skeletons, then mutations of the best.

A skeleton uses one kernel_size and one expand_ratio choice everywhere and one depth choice for all stages.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np

from ofa_kit.arch.genes import Genomes
from ofa_kit.arch.space import SearchSpace
from ofa_kit.search.budget import Candidate, Objective
from ofa_kit.search.evolution import Evolution
from ofa_kit.search.feasible import require_feasible
from ofa_kit.search.population import best_of

FINE = Evolution(population=200, generations=40, mutation_probability=0.05)


@dataclass(frozen=True, kw_only=True)
class CoarseToFine:
    """Judge the grid, keep the best skeletons, then vary every choice around them."""

    skeletons: int = 20
    fine: Evolution = FINE

    def search(self, objective: Objective, rng: np.random.Generator, top: int = 1) -> list[Candidate]:
        """Return the `top` best different candidates within budget, best first; InfeasibleBudgetError when none is."""
        grid = np.vstack([require_feasible(objective), skeleton_grid(objective.space)])
        score = objective.score(grid)
        best = best_of(grid, score, self.skeletons)
        genomes, score = self.fine.evolve(grid[best], score[best], objective, rng, max(self.fine.parents, top))
        return objective.candidates(genomes[score >= 0][:top])


def skeleton_grid(space: SearchSpace) -> Genomes:
    """Return every skeleton of the space, shape (N, genome_length): one choice of each kind for the whole network."""
    kinds = sorted({gene.kind for gene in space.genes})
    most = {kind: max(len(gene.choices) for gene in space.genes if gene.kind == kind) for kind in kinds}
    rows = []
    for choices in product(*(range(most[kind]) for kind in kinds)):
        chosen = dict(zip(kinds, choices, strict=True))
        rows.append([min(chosen[gene.kind], len(gene.choices) - 1) for gene in space.genes])
    return space.canonical(np.unique(np.array(rows), axis=0))
