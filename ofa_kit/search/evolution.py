"""Evolutionary search (Real et al. 2019; once-for-all's EvolutionFinder) on whole populations of genomes."""

from dataclasses import dataclass

import numpy as np

from ofa_kit.arch.genes import Genomes
from ofa_kit.search.budget import Candidate, Objective, Values
from ofa_kit.search.feasible import require_feasible
from ofa_kit.search.population import best_of, keys_of


@dataclass(frozen=True, kw_only=True)
class Evolution:
    """Keep the best, fill up with their mutations and crossovers; everything is judged once and at once.

    Parents are all different, and a genome that was judged before is not judged again: what is spent goes to new ones.
    Where the best has not changed for `patience` generations, random genomes and crossovers of the best with such take
    the place of all; the best so far are kept aside.
    """

    population: int = 200
    generations: int = 60
    parents: int = 50
    mutation_probability: float = 0.1
    patience: int = 15
    """Generations without a better genome before the population begins anew; 0 = never."""

    def search(self, objective: Objective, rng: np.random.Generator, top: int = 1) -> list[Candidate]:
        """Return the `top` best different candidates within budget, best first; InfeasibleBudgetError when none is."""
        starts = require_feasible(objective)
        genomes = np.vstack([starts, objective.space.sample_genomes(self.population, rng)])
        return self.improve(genomes, objective, rng, top)

    def improve(
        self, genomes: Genomes, objective: Objective, rng: np.random.Generator, top: int = 1
    ) -> list[Candidate]:
        """Evolve a given population, which holds at least one genome within budget."""
        genomes, score = self.evolve(genomes, objective.score(genomes), objective, rng, max(self.parents, top))
        best = best_of(genomes, score, top)
        return objective.candidates(genomes[best[score[best] >= 0]])

    def evolve(
        self, genomes: Genomes, score: Values, objective: Objective, rng: np.random.Generator, keep: int
    ) -> tuple[Genomes, Values]:
        """Return the best `keep` genomes of all generations and their scores, best first."""
        space, judged, highest, stale = objective.space, keys_of(genomes), -np.inf, 0
        aside = genomes[:0], score[:0]
        for _ in range(self.generations):
            best = best_of(genomes, score, keep)
            genomes, score = genomes[best], score[best]
            stale, highest = (stale + 1, highest) if score[0] <= highest else (0, float(score[0]))
            if stale and stale == self.patience:
                aside = np.vstack([aside[0], genomes]), np.concatenate([aside[1], score])
                genomes, highest, stale = self._anew(genomes, objective, rng), -np.inf, 0
                score = objective.score(genomes)
                continue
            mothers, fathers = (genomes[rng.integers(len(genomes), size=self.population // 2)] for _ in range(2))
            children = space.mutate_genomes(mothers, rng, self.mutation_probability)
            crossed = space.crossover_genomes(mothers, fathers, rng)
            children = np.vstack([children, crossed])
            new = np.flatnonzero(~np.isin(keys_of(children), judged))
            children = children[new[np.unique(keys_of(children[new]), return_index=True)[1]]]
            judged = np.union1d(judged, keys_of(children))
            genomes = np.vstack([genomes, children])
            score = np.concatenate([score, objective.score(children)])
        genomes, score = np.vstack([aside[0], genomes]), np.concatenate([aside[1], score])
        best = best_of(genomes, score, keep)
        return genomes[best], score[best]

    def _anew(self, genomes: Genomes, objective: Objective, rng: np.random.Generator) -> Genomes:
        """Return a population for a restart: half of it random, half crossovers of random genomes with given ones."""
        fresh = objective.space.sample_genomes(self.population, rng)
        half = self.population // 2
        mothers = genomes[rng.integers(len(genomes), size=half)]
        return np.vstack([fresh[half:], objective.space.crossover_genomes(mothers, fresh[:half], rng)])
