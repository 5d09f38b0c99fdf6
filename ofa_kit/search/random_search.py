"""Random search: what every other search has to beat with the same number of evaluations."""

from dataclasses import dataclass

import numpy as np

from ofa_kit.search.budget import Candidate, Objective
from ofa_kit.search.feasible import require_feasible
from ofa_kit.search.population import best_candidates

CHUNK = 4096


@dataclass(frozen=True, kw_only=True)
class RandomSearch:
    """Draw genomes, the same ones whatever the budget: a wider one never gives a worse answer."""

    samples: int = 12_000

    def search(self, objective: Objective, rng: np.random.Generator, top: int = 1) -> list[Candidate]:
        """Return the `top` best different candidates within budget, best first; InfeasibleBudgetError when none is."""
        found = require_feasible(objective)
        drawn = objective.space.sample_genomes(self.samples, rng)
        inside = drawn[objective.excess(drawn) == 0]
        return best_candidates(objective, np.vstack([found, inside]), top)
