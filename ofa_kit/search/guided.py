"""Guided search: the best of exact optima of simple models, evolution and local search together.

A surrogate that is a sum over parts is fitted and its optima are judged. Then, in rounds, the surroundings of the best
genomes are tabulated, one option of one part at a time; the multiple-choice knapsack of each table, with a price for
every part that changes, proposes many changes at once that together fit the budget; mutations and crossovers keep the
population different. At last pairs of changes are tried until none is better.
"""

from dataclasses import dataclass

import numpy as np

from ofa_kit.arch.genes import SKIPPED, Genomes
from ofa_kit.search.budget import Candidate, Objective, Values
from ofa_kit.search.climbing import climb
from ofa_kit.search.exact import surrogate_optima
from ofa_kit.search.feasible import require_feasible
from ofa_kit.search.parts import parts_of, surroundings
from ofa_kit.search.population import best_of, keys_of
from ofa_kit.search.relaxed import Costs, Surrogate


@dataclass(frozen=True, kw_only=True)
class Guided:
    """Exact starts, then rounds of local models and evolution, then local search."""

    samples: int = 1000
    rounds: int = 14
    width: int = 4
    """Genomes whose surroundings are tabulated in a round."""
    prices: tuple[float, ...] = (0.0, 0.5, 1.5, 4.0)
    """Of a changed part, in quartiles of what a change is worth."""
    children: int = 300
    keep: int = 100
    steps: int = 400
    polished: int = 2
    mutation_probability: float = 0.05

    def search(self, objective: Objective, rng: np.random.Generator, top: int = 1) -> list[Candidate]:
        """Return the `top` best different candidates within budget, best first; InfeasibleBudgetError when none is."""
        pool = _Pool(objective, max(self.keep, top))
        pool.add(require_feasible(objective))
        space = objective.space
        sampled = space.sample_genomes(self.samples, rng)
        top1 = objective.predict_top1(sampled)
        pool.add(sampled, top1)
        costs = Costs.of(objective)
        shares = self._shares(objective)
        pool.add(surrogate_optima(Surrogate.fit(space, sampled, top1), costs, shares, self.steps))
        for _ in range(self.rounds):
            around = pool.fresh(self.width)
            if len(around):
                self._model(pool, around, costs, shares)
            self._breed(pool, rng)
        for genome in pool.genomes[: self.polished].copy():
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
        pool.add(found.genomes, found.values)
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
    """The best genomes so far, best first, and which were seen."""

    def __init__(self, objective: Objective, keep: int) -> None:
        self.objective, self.keep = objective, keep
        self.genomes: Genomes = np.empty((0, objective.space.genome_length), dtype=np.int64)
        self.score: Values = np.empty(0)
        self.seen = np.empty(0, dtype=np.int64)
        self.modelled: set[int] = set()

    def add(self, genomes: Genomes, top1: Values | None = None) -> None:
        """Judge genomes that were not seen, their top-1 (N,) known or not, and keep the best."""
        keys = keys_of(genomes)
        new, first = np.unique(keys, return_index=True)
        first = np.sort(first[~np.isin(new, self.seen)])
        genomes = genomes[first]
        if not len(genomes):
            return
        self.seen = np.concatenate([self.seen, keys[first]])
        score = self.objective.score(genomes) if top1 is None else self.objective.score_known(genomes, top1[first])
        every, scores = np.vstack([self.genomes, genomes]), np.concatenate([self.score, score])
        best = best_of(every, scores, self.keep)
        self.genomes, self.score = every[best], scores[best]

    def fresh(self, count: int) -> Genomes:
        """Return the best genomes whose surroundings were not asked for before."""
        fresh = [genome for genome, key in zip(self.genomes, keys_of(self.genomes), strict=True)
                 if int(key) not in self.modelled][:count]  # fmt: skip
        self.modelled |= {int(key) for key in keys_of(np.array(fresh))} if fresh else set()
        return np.array(fresh)
