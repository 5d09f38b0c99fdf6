"""Evolutionary search (Real et al. 2019; once-for-all's EvolutionFinder) on whole populations of genomes."""

from dataclasses import dataclass

import numpy as np

from ofa_kit.arch.genes import Genomes
from ofa_kit.search.budget import Candidate, Objective


@dataclass(frozen=True, kw_only=True)
class Evolution:
    """Keep the best, fill up with their mutations and crossovers; everything is judged at once."""

    population: int = 200
    generations: int = 60
    parents: int = 50
    mutation_probability: float = 0.1

    def search(self, objective: Objective, rng: np.random.Generator, top: int = 1) -> list[Candidate]:
        """Return the `top` best different candidates within budget, best first; InfeasibleBudgetError when none is."""
        objective.require_feasible()
        seeds = objective.fastest()
        genomes = np.vstack([seeds, objective.space.sample_genomes(self.population, rng)])
        return self.improve(genomes, objective, rng, top)

    def improve(
        self, genomes: Genomes, objective: Objective, rng: np.random.Generator, top: int = 1
    ) -> list[Candidate]:
        """Evolve a given population, which holds at least one genome within budget."""
        space, keep = objective.space, max(self.parents, top)
        for _ in range(self.generations):
            genomes = best_different(genomes, objective, keep)
            mothers, fathers = (genomes[rng.integers(len(genomes), size=self.population // 2)] for _ in range(2))
            children = space.mutate_genomes(mothers, rng, self.mutation_probability)
            crossed = space.crossover_genomes(mothers, fathers, rng)
            genomes = np.vstack([genomes, children, crossed])
        genomes = best_different(genomes, objective, top)
        return [objective.candidate(g) for g in genomes[objective.excess(genomes) <= 0]]


def best_different(genomes: Genomes, objective: Objective, count: int) -> Genomes:
    """Return the best `count` genomes without repetition, best first."""
    genomes = np.unique(genomes, axis=0)
    order = np.argsort(-objective.score(genomes), kind="stable")
    return genomes[order[:count]]
