"""The front of top-1 against cost in one run: NSGA-II (Deb et al. 2002) on whole populations of genomes.

No budget steers it: every budget is answered from the same genomes, so a wider one never gives a worse answer.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ofa_kit.arch.features import macs_of
from ofa_kit.arch.genes import Genomes
from ofa_kit.search.budget import Budget, Candidate, Objective, Values
from ofa_kit.search.exact import surrogate_optima
from ofa_kit.search.feasible import require_feasible
from ofa_kit.search.population import best_candidates, different, keys_of
from ofa_kit.search.relaxed import Costs, Surrogate


@dataclass(frozen=True, kw_only=True)
class Pareto:
    """Start from exact optima of an additive surrogate for a ladder of costs, then evolve the front."""

    cost: Literal["latency", "macs"] = "latency"
    samples: int = 1000
    population: int = 200
    generations: int = 60
    shares: int = 32
    mutation_probability: float = 0.05

    def search(self, objective: Objective, rng: np.random.Generator, top: int = 1) -> list[Candidate]:
        """Return the `top` best different candidates within budget, best first; InfeasibleBudgetError when none is."""
        found = require_feasible(objective)
        return best_candidates(objective, np.vstack([found, self._evolve(objective, rng)[0]]), top)

    def front(self, objective: Objective, rng: np.random.Generator) -> list[Candidate]:
        """Return every candidate within budget that no other beats in both top-1 and cost, cheapest first."""
        genomes, top1, cost = self._evolve(objective, rng)
        inside = np.flatnonzero(objective.excess(genomes) == 0)
        if not len(inside):
            return objective.candidates(require_feasible(objective)[:1])
        best = inside[fronts(top1[inside], cost[inside]) == 0]
        return objective.candidates(genomes[best[np.argsort(cost[best], kind="stable")]])

    def _evolve(self, objective: Objective, rng: np.random.Generator) -> tuple[Genomes, Values, Values]:
        """Return all genomes that were judged, with their top-1 and cost."""
        space = objective.space
        free = replace(objective, budget=Budget(), other_costs={})
        genomes = space.sample_genomes(self.samples, rng)
        surrogate = Surrogate.fit(space, genomes, objective.predict_top1(genomes))
        ladder = surrogate_optima(surrogate, Costs.of(free), np.linspace(0, 1, self.shares), 500)
        genomes = different(np.vstack([genomes, ladder]))
        top1, cost = objective.predict_top1(genomes), self._cost(objective, genomes)
        for _ in range(self.generations):
            parents = genomes[survivors(top1, cost, self.population)]
            mothers, fathers = (parents[rng.integers(len(parents), size=self.population // 2)] for _ in range(2))
            mutated = space.mutate_genomes(mothers, rng, self.mutation_probability)
            children = different(np.vstack([mutated, space.crossover_genomes(mothers, fathers, rng)]))
            children = children[~np.isin(keys_of(children), keys_of(genomes))]
            genomes = np.vstack([genomes, children])
            top1 = np.concatenate([top1, objective.predict_top1(children)])
            cost = np.concatenate([cost, self._cost(objective, children)])
        return genomes, top1, cost

    def _cost(self, objective: Objective, genomes: Genomes) -> Values:
        if self.cost == "macs":
            return macs_of(objective.space, genomes)
        return np.nan_to_num(objective.predict_latency_ms(genomes), nan=np.inf)


def fronts(top1: Values, cost: Values, most: int | None = None) -> NDArray[np.int64]:
    """Return the number of the front of each point (N,): 0 where none beats it in both, 1 where only those do, ...

    Points beyond the first `most` get the number after the last front that was needed.
    """
    number = np.full(len(top1), -1, dtype=np.int64)
    order = np.lexsort((-top1, cost))
    current = 0
    while len(order) and (most is None or (number >= 0).sum() < most):
        before = np.concatenate([[-np.inf], np.maximum.accumulate(top1[order])[:-1]])
        best = top1[order] > before
        number[order[best]] = current
        order, current = order[~best], current + 1
    number[number < 0] = current
    return number


def survivors(top1: Values, cost: Values, count: int) -> NDArray[np.int64]:
    """Return the indices of up to `count` points: the first fronts, the least crowded of the last one."""
    number = fronts(top1, cost, count)
    crowding = np.zeros(len(top1))
    for one in range(int(number.max()) + 1):
        members = np.flatnonzero(number == one)
        members = members[np.argsort(cost[members], kind="stable")]
        if len(members) < 3:
            crowding[members] = np.inf
            continue
        for values in (top1[members], cost[members]):
            crowding[members[1:-1]] += np.abs(values[2:] - values[:-2]) / max(float(np.ptp(values)), 1e-12)
        crowding[members[[0, -1]]] = np.inf
    return np.lexsort((-crowding, number))[:count]
