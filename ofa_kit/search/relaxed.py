"""The search problem as sums over parts: costs of every resolution, a surrogate of top-1, and its optima.

Costs that are sums over layers are met exactly. Others are met where a genome is judged: here they only guide.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ofa_kit.arch.genes import Genomes
from ofa_kit.arch.space import SearchSpace
from ofa_kit.search.budget import Limit, Objective, Values
from ofa_kit.search.knapsack import solve, solve_exactly
from ofa_kit.search.parts import Parts, parts_of, surroundings

RIDGE = 1e-3
"""Of the surrogate's effects, by the number of samples."""


@dataclass(frozen=True)
class Costs:
    """Shares of the limits that each part takes, for every resolution."""

    parts: Parts
    base: Values
    """(limits, resolutions): share that no choice but the resolution decides."""
    tables: Values
    """(limits, resolutions, parts, options)."""

    @classmethod
    def of(cls, objective: Objective) -> "Costs":
        """Tabulate the limits of an objective, and the latency where it is the goal or nothing is limited."""
        space = objective.space
        parts, largest = parts_of(space), largest_everywhere(space)
        limits = list(objective.limits)
        if not limits or objective.budget.min_top1 is not None:
            most = min(objective.budget.latency_ms, 1.001 * float(objective.predict_latency_ms(largest).max()))
            limits = [Limit("latency", objective.predict_latency_ms, most), *limits]
            limits = limits[:1] + [limit for limit in limits[1:] if limit.name != "latency"]
        found = [surroundings(parts, largest, limit.cost_of) for limit in limits]
        base = np.stack([one.base.diagonal() / limit.most for one, limit in zip(found, limits, strict=True)])
        tables = np.stack([one.table / limit.most for one, limit in zip(found, limits, strict=True)])
        return cls(parts, base, tables)

    def mixtures(self) -> Values:
        """Return weights of limits that make one cost of several, (W, limits): each alone, and all alike."""
        count = len(self.base)
        alone = np.eye(count)
        return alone if count == 1 else np.vstack([np.full((1, count), 1 / count), alone])

    def best(
        self, values: Values, resolutions: NDArray[np.int64], weights: Values, shares: Values, steps: int
    ) -> Genomes:
        """Return optima for values (K, parts, options) at resolution genes (K,), different or not.

        `weights` (K, limits) makes one cost of all; `shares` says how much of the room above the base may be used.
        """
        base = (weights * self.base[:, resolutions].T).sum(axis=1)
        costs = np.einsum("kl,lkpo->kpo", weights, self.tables[:, resolutions])
        solved = solve(self.parts, values, costs, 1 - base, steps)
        cases = np.repeat(np.arange(len(values)), len(shares))
        left = np.tile(np.rint(shares * steps).astype(np.int64), len(values))
        fits = np.isfinite(solved.best[cases, left])
        cases, left = cases[fits], left[fits]
        return self.parts.genomes(resolutions[cases], solved.options(cases, left))


@dataclass(frozen=True)
class Surrogate:
    """Top-1 as a sum of one effect a part and one of the resolution, fitted by ridge regression."""

    parts: Parts
    base: Values
    """(resolutions,)."""
    table: Values
    """(parts, options)."""

    @classmethod
    def fit(cls, space: SearchSpace, genomes: Genomes, top1: Values) -> "Surrogate":
        """Fit on genomes (N, length) and their predicted top-1 (N,)."""
        parts = parts_of(space)
        features = parts.one_hot(genomes)
        middle = float(top1.mean())
        normal = features.T @ features + RIDGE * len(genomes) * np.eye(features.shape[1])
        effects = np.asarray(np.linalg.solve(normal, features.T @ (top1 - middle)), dtype=np.float64)
        count = len(space.resolutions)
        table = effects[count:].reshape(len(parts.parts), parts.most)
        missing = np.arange(parts.most) >= np.array([[len(part.options)] for part in parts.parts])
        return cls(parts, np.asarray(effects[:count] + middle), np.where(missing, np.nan, table))

    def predict(self, genomes: Genomes) -> Values:
        """Return the sum of the effects, shape (N,)."""
        effects = np.concatenate([self.base, np.nan_to_num(self.table).ravel()])
        return np.asarray(self.parts.one_hot(genomes) @ effects)

    def optimum(self, costs: Costs) -> tuple[Genomes, float]:
        """Return the exact optimum within all limits at each resolution that has one, and the bound of the best."""
        found, bound = [], -math.inf
        for resolution in range(len(self.base)):
            room = 1 - costs.base[:, resolution]
            solved = solve_exactly(self.parts, self.table, costs.tables[:, resolution], room)
            if solved is not None:
                found.append(self.parts.genomes(np.array([resolution]), solved[0]))
                bound = max(bound, solved[1] + float(self.base[resolution]))
        length = self.parts.space.genome_length
        return np.vstack(found) if found else np.empty((0, length), dtype=np.int64), bound


def largest_everywhere(space: SearchSpace) -> Genomes:
    """Return the largest subnet at each resolution, (resolutions, length)."""
    genomes = np.repeat(space.encode(space.largest())[None], len(space.resolutions), axis=0)
    genomes[:, 0] = np.arange(len(genomes))
    return genomes
