"""Local search: climb from some starts to local optima that are proven."""

from dataclasses import dataclass

import numpy as np

from ofa_kit.search.budget import Candidate, Objective
from ofa_kit.search.climbing import climb
from ofa_kit.search.feasible import require_feasible
from ofa_kit.search.population import best_candidates, best_of


@dataclass(frozen=True, kw_only=True)
class LocalSearch:
    """Climb from the best random genomes and from the fastest ones."""

    samples: int = 2000
    starts: int = 3
    pairs: bool = True

    def search(self, objective: Objective, rng: np.random.Generator, top: int = 1) -> list[Candidate]:
        """Return the `top` best different candidates within budget, best first; InfeasibleBudgetError when none is."""
        starts = np.vstack([require_feasible(objective), objective.space.sample_genomes(self.samples, rng)])
        score = objective.score(starts)
        seen = [starts[best_of(starts, score, max(top, self.starts))]]
        for genome in seen[0][: self.starts]:
            seen.append(climb(objective, genome, pairs=self.pairs))
        return best_candidates(objective, np.vstack(seen), top)
