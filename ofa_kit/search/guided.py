"""Guided search: coarse-to-fine evolution, exact optima of simple models and local search, one after the other.

A short evolution of the best skeletons and the optima of a surrogate that is a sum over parts fill the pool. Then, in
rounds, the surroundings of the best genomes are tabulated, one option of one part at a time; the multiple-choice
knapsack of each table, with a price for every part that changes, proposes many changes at once that together fit the
budget; mutations and crossovers keep the pool different. Resolutions are kept apart throughout: what is best at one is
far from what is best at the next, and the first to be good need not stay the best. At last pairs of changes are tried
until none is better.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ofa_kit.arch.genes import SKIPPED, Genomes
from ofa_kit.search.budget import Candidate, Objective, Values
from ofa_kit.search.climbing import climb
from ofa_kit.search.coarse_to_fine import skeleton_grid
from ofa_kit.search.evolution import Evolution
from ofa_kit.search.exact import surrogate_optima
from ofa_kit.search.feasible import require_feasible
from ofa_kit.search.parts import parts_of, surroundings
from ofa_kit.search.population import best_of, keys_of
from ofa_kit.search.relaxed import Costs, Surrogate

BEGINNING = Evolution(population=200, generations=20, mutation_probability=0.05)


@dataclass(frozen=True, kw_only=True)
class Guided:
    """An evolution and exact starts, then rounds of local models and breeding, then local search."""

    skeletons: int = 20
    evolution: Evolution = BEGINNING
    samples: int = 1000
    rounds: int = 10
    width: int = 4
    """Genomes whose surroundings are tabulated in a round, half of them the best of other resolutions."""
    prices: tuple[float, ...] = (0.0, 0.5, 1.5, 4.0)
    """Of a changed part, in quartiles of what a change is worth."""
    children: int = 200
    keep: int = 100
    niche: int = 8
    """Genomes that are kept of every resolution, however good the others are."""
    steps: int = 400
    polished: int = 3
    """Resolutions whose best genome is polished."""
    mutation_probability: float = 0.05

    def search(self, objective: Objective, rng: np.random.Generator, top: int = 1) -> list[Candidate]:
        """Return the `top` best different candidates within budget, best first; InfeasibleBudgetError when none is."""
        space, pool = objective.space, _Pool(objective, max(self.keep, top), self.niche)
        pool.add(np.vstack([require_feasible(objective), skeleton_grid(space)]))
        skeletons, scores = pool.genomes[: self.skeletons], pool.score[: self.skeletons]
        pool.add(*self.evolution.evolve(skeletons, scores, objective, rng, self.evolution.parents))
        sampled = space.sample_genomes(self.samples, rng)
        top1 = objective.predict_top1(sampled)
        pool.add(sampled, objective.score_known(sampled, top1))
        costs = Costs.of(objective)
        shares = self._shares(objective)
        pool.add(surrogate_optima(Surrogate.fit(space, sampled, top1), costs, shares, self.steps))
        for _ in range(self.rounds):
            around = pool.fresh(self.width)
            if len(around):
                self._model(pool, around, costs, shares)
            self._breed(pool, rng)
        for genome in pool.best_of_resolutions()[: self.polished]:
            pool.add(climb(objective, genome))
        inside = pool.score >= 0
        return objective.candidates(pool.genomes[inside][:top])

    def _shares(self, objective: Objective) -> Values:
        if objective.budget.min_top1 is not None:
            return np.linspace(0, 1, 65)
        if len(objective.limits) > 1:
            return np.linspace(0.5, 1, 26)
        return 1 - np.arange(6) / self.steps

    def _model(self, pool: "_Pool", around: Genomes, costs: Costs, shares: Values) -> None:
        objective = pool.objective
        parts, mixtures = parts_of(objective.space), costs.mixtures()
        found = surroundings(parts, around, objective.predict_top1)
        pool.add(found.genomes, objective.score_known(found.genomes, found.values))
        taken = parts.options_of(around)
        own = np.take_along_axis(found.table, np.maximum(taken, 0)[:, :, None], axis=2)
        quartile = np.nanquantile(np.abs(found.table - own), 0.25, axis=(1, 2))
        stays = taken[:, :, None] == np.arange(parts.most)
        absent = (taken == SKIPPED)[:, :, None]
        near = np.clip(around[:, 0] + np.array([[-1], [0], [1]]), 0, len(objective.space.resolutions) - 1)
        cases = [
            (found.table[k] + price * quartile[k] * (1.0 * stays[k] - absent[k]), resolution, weights)
            for k in range(len(around))
            for price in self.prices
            for resolution in sorted(set(near[:, k]))
            for weights in mixtures
        ]
        values, resolutions, weights = (np.array(column) for column in zip(*cases, strict=True))
        pool.add(costs.best(values, resolutions, weights, shares, self.steps))

    def _breed(self, pool: "_Pool", rng: np.random.Generator) -> None:
        space, half = pool.objective.space, self.children // 2
        if not half:
            return
        mothers, fathers = (pool.genomes[rng.integers(len(pool.genomes), size=half)] for _ in range(2))
        mutated = space.mutate_genomes(mothers, rng, self.mutation_probability)
        pool.add(np.vstack([mutated, space.crossover_genomes(mothers, fathers, rng)]))


class _Pool:
    """The best genomes so far, best first, those of every resolution among them, and which were seen."""

    def __init__(self, objective: Objective, keep: int, niche: int) -> None:
        self.objective, self.keep, self.niche = objective, keep, niche
        self.genomes: Genomes = np.empty((0, objective.space.genome_length), dtype=np.int64)
        self.score: Values = np.empty(0)
        self.seen = np.empty(0, dtype=np.int64)
        self.modelled: set[int] = set()

    def add(self, genomes: Genomes, score: Values | None = None) -> None:
        """Judge genomes that were not seen, their scores (N,) known or not, and keep the best."""
        keys = keys_of(genomes)
        new, first = np.unique(keys, return_index=True)
        first = np.sort(first[~np.isin(new, self.seen)])
        if not len(first):
            return
        self.seen = np.concatenate([self.seen, keys[first]])
        judged = self.objective.score(genomes[first]) if score is None else score[first]
        every, scores = np.vstack([self.genomes, genomes[first]]), np.concatenate([self.score, judged])
        order = best_of(every, scores, len(every))
        kept = order[(np.arange(len(order)) < self.keep) | (_rank_within(every[order, 0]) < self.niche)]
        self.genomes, self.score = every[kept], scores[kept]

    def fresh(self, count: int) -> Genomes:
        """Return genomes whose surroundings were not asked for before: the best, and the best of other resolutions."""
        keys = keys_of(self.genomes)
        fresh = [place for place, key in enumerate(keys) if int(key) not in self.modelled]
        chosen = fresh[: count - count // 2]
        for place in fresh[len(chosen) :]:
            if len(chosen) < count and self.genomes[place, 0] not in self.genomes[chosen, 0]:
                chosen.append(place)
        self.modelled |= {int(keys[place]) for place in chosen}
        return self.genomes[chosen]

    def best_of_resolutions(self) -> Genomes:
        """Return the best genome of every resolution, the best of them first."""
        best: Genomes = self.genomes[_rank_within(self.genomes[:, 0]) == 0]
        return best


def _rank_within(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many earlier elements (N,) have the same value."""
    rank = np.zeros(len(groups), dtype=np.int64)
    for value in np.unique(groups):
        same = groups == value
        rank[same] = np.arange(same.sum())
    return rank
