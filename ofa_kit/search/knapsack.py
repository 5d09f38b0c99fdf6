"""The multiple-choice knapsack of a model that is a sum over parts: one option of each part, stages cut at a depth.

By dynamic programming over discretised cost for many cases and limits at once, or by integer programming (HiGHS) where
several costs are limited or the exact optimum is wanted.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from ofa_kit.arch.genes import SKIPPED
from ofa_kit.search.budget import Values
from ofa_kit.search.parts import Parts

Sums = NDArray[np.float32]
Options = NDArray[np.int64]
"""(N, parts): the option of each part, SKIPPED where a block is."""


@dataclass(frozen=True)
class Solved:
    """Best sums of values by how much cost is allowed."""

    parts: Parts
    best: Sums
    """(K, steps + 1); -inf where nothing fits."""
    taken: list[NDArray[np.int8]]
    """For each part, (K, steps + 1): the option taken where that much is left."""
    cut: dict[int, NDArray[np.int8]]
    """For each stage with blocks of its own, the depth index taken."""
    weights: Options
    """(K, parts, options): discretised costs."""

    def options(self, cases: Options, left: Options) -> Options:
        """Return the options of the optima of some cases (N,) at some allowed costs in steps (N,)."""
        found = np.full((len(cases), len(self.parts.parts)), SKIPPED, dtype=np.int64)
        left, depth = left.copy(), np.zeros(len(cases), dtype=np.int64)
        stage_before = None
        for column in range(len(self.parts.parts) - 1, -1, -1):
            part = self.parts.parts[column]
            there = np.ones(len(cases), dtype=bool)
            if part.block is not None:
                stage, block = part.block
                if stage != stage_before:
                    depth = np.array(self.parts.space.stages[stage].depths)[self.cut[stage][cases, left]]
                there, stage_before = depth > block, stage
            taken = self.taken[column][cases, left].astype(np.int64)
            found[:, column] = np.where(there, taken, SKIPPED)
            left = left - np.where(there, self.weights[cases, column, taken], 0)
        return found


def solve(parts: Parts, values: Values, costs: Values, budgets: Values, steps: int, *, up: bool = False) -> Solved:
    """Maximise the sum of values (K, parts, options) with the sum of costs of the same shape at most `budgets` (K,).

    Costs are rounded to budget / `steps`, all of them up where what is found must surely fit.
    """
    costs = np.nan_to_num(costs, nan=np.inf)
    saved = np.where(_always_there(parts), costs.min(axis=2), 0.0)
    budgets = np.maximum(budgets - saved.sum(axis=1), 1e-12)
    scaled = np.maximum((costs - saved[:, :, None]) / budgets[:, None, None] * steps, 0.0)
    weights = np.minimum(np.ceil(scaled - 1e-9) if up else np.rint(scaled), 2 * steps).astype(np.int64)
    gains = np.where(np.isnan(values), -np.inf, values).astype(np.float32)
    now: Sums = np.zeros((len(values), steps + 1), dtype=np.float32)
    taken: list[NDArray[np.int8]] = []
    cut: dict[int, NDArray[np.int8]] = {}
    by_depth: list[Sums] = []
    for column, part in enumerate(parts.parts):
        if part.block is not None and part.block[1] == 0:
            by_depth = []
        options = len(part.options)
        sums = _shifted(now, weights[:, column, :options]) + gains[:, column, :options, None]
        choice = sums.argmax(axis=1)
        now = np.take_along_axis(sums, choice[:, None], axis=1)[:, 0]
        taken.append(choice.astype(np.int8))
        if part.block is not None:
            stage, block = part.block
            by_depth.append(now)
            if block + 1 == parts.space.stages[stage].max_depth:
                at = np.stack([by_depth[depth - 1] for depth in parts.space.stages[stage].depths])
                cut[stage] = at.argmax(axis=0).astype(np.int8)
                now = at.max(axis=0)
    return Solved(parts, now, taken, cut, weights)


def _always_there(parts: Parts) -> NDArray[np.bool_]:
    """Return which parts no depth leaves out, (parts,)."""
    stages = parts.space.stages
    return np.array([p.block is None or p.block[1] < min(stages[p.block[0]].depths) for p in parts.parts])


def _shifted(sums: Sums, by: Options) -> Sums:
    """Return rows (K, steps + 1) moved to the right by numbers of steps (K, options), -inf coming in."""
    steps = sums.shape[1]
    padded = np.concatenate([np.full_like(sums, -np.inf), sums], axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, steps, axis=1)
    return np.asarray(windows[np.arange(len(sums))[:, None], steps - np.minimum(by, steps)])


def solve_exactly(
    parts: Parts, values: Values, costs: Values, budgets: Values, time_limit_s: float = 60.0
) -> tuple[Options, float] | None:
    """Maximise the sum of values (parts, options) with several sums of costs (C, parts, options) within budgets (C,).

    Return the options (1, parts) and an upper bound of the optimum; None where nothing fits.
    """
    there = [(c, o) for c, part in enumerate(parts.parts) for o in range(len(part.options))]
    column, option = np.array(there, dtype=np.int64).T
    rows, low, high = [np.asarray(cost[column, option]) for cost in costs], [-np.inf] * len(costs), list(budgets)
    sums = [np.asarray(column == c, dtype=float) for c in range(len(parts.parts))]
    for c, part in enumerate(parts.parts):
        if part.block is None or _always_there(parts)[c]:
            rows, low, high = [*rows, sums[c]], [*low, 1.0], [*high, 1.0]
        else:  # as often there as the block before, or less where a depth may end between them
            ends = part.block[1] in parts.space.stages[part.block[0]].depths
            rows, low, high = [*rows, sums[c - 1] - sums[c]], [*low, 0.0], [*high, 1.0 if ends else 0.0]
    found = milp(
        -np.asarray(values[column, option]),
        integrality=np.ones(len(there)),
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(np.array(rows), low, high),
        options={"time_limit": time_limit_s, "mip_rel_gap": 0.0},
    )
    if found.x is None:
        return None
    options = np.full((1, len(parts.parts)), SKIPPED, dtype=np.int64)
    chosen = np.flatnonzero(np.rint(found.x) == 1)
    options[0, column[chosen]] = option[chosen]
    return options, -float(found.mip_dual_bound if found.mip_dual_bound is not None else found.fun)
