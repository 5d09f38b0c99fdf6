"""A ladder of budgets: a wider budget never gives a worse answer, whatever the search, by construction."""

import math
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from ofa_kit.errors import InfeasibleBudgetError, OfaKitError
from ofa_kit.search.budget import Candidate, Objective
from ofa_kit.search.feasible import extremes, require_feasible
from ofa_kit.search.relaxed import largest_everywhere


class Searcher(Protocol):
    """Finds the best subnets within a budget."""

    def search(self, objective: Objective, rng: np.random.Generator, top: int = 1) -> list[Candidate]:
        """Return the `top` best different candidates within budget, best first; InfeasibleBudgetError when none is."""
        ...


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """Answer a latency budget with the best of the searches for all rungs up to it, which do not depend on it.

    The first rung is what the fastest of the smallest subnets takes, each further one `ratio` times the one below. An
    answer leaves unused what lies between the budget and the rung below; the time is that of one search a rung.
    """

    inner: Searcher
    ratio: float = 1.02

    def search(self, objective: Objective, rng: np.random.Generator, top: int = 1) -> list[Candidate]:
        """Return the `top` best different candidates within budget, best first; InfeasibleBudgetError when none is."""
        limit = objective.budget.latency_ms
        if not math.isfinite(limit):
            raise OfaKitError("a ladder of budgets needs a latency budget, found none; give --latency-ms")
        require_feasible(objective)
        lowest = float(objective.predict_latency_ms(extremes(objective)).min())
        highest = float(objective.predict_latency_ms(largest_everywhere(objective.space)).max())
        seed, found = int(rng.integers(2**32)), dict[str, Candidate]()
        for rung in range(1 + math.ceil(math.log(max(highest / lowest, 1.0), self.ratio))):
            rung_ms = lowest * self.ratio**rung
            if rung_ms > limit:
                break
            one = replace(objective, budget=replace(objective.budget, latency_ms=rung_ms))
            with suppress(InfeasibleBudgetError):  # by another limit: the next rung leaves more room
                answers = self.inner.search(one, np.random.default_rng([seed, rung]), top)
                found |= {candidate.arch.key: candidate for candidate in answers}
        if not found:
            return self.inner.search(objective, rng, top)
        return sorted(found.values(), key=lambda candidate: -candidate.predicted_top1)[:top]
