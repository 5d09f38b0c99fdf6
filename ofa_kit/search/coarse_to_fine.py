"""Coarse-to-fine search (BigNAS, Yu et al. 2020, sec. 3.5): a grid of shared skeletons, then mutations of the best.

A skeleton uses one kernel_size and one expand_ratio choice everywhere and one depth choice for all stages.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np

from ofa_kit.arch.space import Genomes, SearchSpace
from ofa_kit.search.budget import Candidate, Objective
from ofa_kit.search.evolution import Evolution, best_different

FINE = Evolution(population=200, generations=40, mutation_probability=0.05)


@dataclass(frozen=True, kw_only=True)
class CoarseToFine:
    """Judge the grid, keep the best skeletons, then vary every choice around them."""

    skeletons: int = 20
    fine: Evolution = FINE

    def search(self, objective: Objective, rng: np.random.Generator, top: int = 1) -> list[Candidate]:
        """Return the `top` best different candidates within budget, best first; InfeasibleBudgetError when none is."""
        objective.require_feasible()
        grid = np.vstack([objective.fastest(), skeleton_grid(objective.space)])
        return self.fine.improve(best_different(grid, objective, self.skeletons), objective, rng, top)


def skeleton_grid(space: SearchSpace) -> Genomes:
    """Return every skeleton of the space, shape (N, genome_length)."""
    depths, kernels, expands = (
        max(len(getattr(s, kind)) for s in space.stages) for kind in ("depths", "kernel_sizes", "expand_ratios")
    )
    rows = []
    for resolution, depth, kernel, expand in product(
        range(len(space.resolutions)), range(depths), range(kernels), range(expands)
    ):
        row = [resolution]
        for s in space.stages:
            block = [min(kernel, len(s.kernel_sizes) - 1), min(expand, len(s.expand_ratios) - 1)]
            row += [min(depth, len(s.depths) - 1), *block * s.max_depth]
        rows.append(row)
    return space.canonical(np.array(rows))
