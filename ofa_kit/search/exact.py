"""Exact search of an additive model: the multiple-choice knapsack of a surrogate fitted on samples, solved by HiGHS.

The answer is as good as the surrogate; its value bounds every subnet's surrogate value, not the predictor's.
"""

from dataclasses import dataclass

import numpy as np

from ofa_kit.search.budget import Candidate, Objective
from ofa_kit.search.feasible import require_feasible
from ofa_kit.search.population import best_candidates
from ofa_kit.search.relaxed import Costs, Surrogate


@dataclass(frozen=True, kw_only=True)
class Exact:
    """Fit the surrogate, solve it at each resolution, judge the optima and the samples."""

    samples: int = 3000
    shares: int = 64
    """Allowances for which the surrogate is solved besides, by dynamic programming."""
    steps: int = 1000

    def search(self, objective: Objective, rng: np.random.Generator, top: int = 1) -> list[Candidate]:
        """Return the `top` best different candidates within budget, best first; InfeasibleBudgetError when none is."""
        found = require_feasible(objective)
        sampled = objective.space.sample_genomes(self.samples, rng)
        surrogate, costs = Surrogate.fit(objective.space, sampled, objective.predict_top1(sampled)), Costs.of(objective)
        ladder = surrogate_optima(surrogate, costs, np.linspace(1 / self.shares, 1, self.shares), self.steps)
        return best_candidates(objective, np.vstack([found, sampled, ladder, surrogate.optimum(costs)[0]]), top)


def surrogate_optima(surrogate: Surrogate, costs: Costs, shares: np.ndarray, steps: int) -> np.ndarray:
    """Return the surrogate's optima at every resolution, mixture of limits and share of the room, (N, length)."""
    mixtures, count = costs.mixtures(), len(surrogate.base)
    resolutions = np.tile(np.arange(count), len(mixtures))
    values = np.repeat(surrogate.table[None], len(resolutions), axis=0)
    return costs.best(values, resolutions, np.repeat(mixtures, count, axis=0), shares, steps)
