"""Linear models of latency: which of them explains measured times best, and how far off it is.

All errors are relative to the measured time: a fast subnet counts as much as a slow one. On a machine that others use
too, one time in twenty may be a fifth too long, so each model is also fitted without what lies far off (an
MM-estimate: Tukey's bisquare from the fit of least absolute errors). Cross-validation decides.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ofa_kit.predictors import scores

Values = NDArray[np.float64]
Solve = Callable[[Values, Values], Values]
"""From rows (N, F) and their weights (N,) to coefficients (F,) with rows @ coefficients close to 1."""
Estimate = Callable[[Values, Solve], Values]
SETTLED = 1e-9
"""Share of the largest coefficient that a round of reweighting may still move one."""
CLOSEST = 1e-3
"""No measured time is trusted to be closer than this share."""
BISQUARE = 4.685
"""Scales of residuals beyond which a time counts nothing; 95 % efficient where all times are good."""
MOST_FOLDS = 40
"""Up to this many subnets are left out one by one; more in a twentieth each."""
COVERAGE = 0.9


@dataclass(frozen=True)
class Candidate:
    """A model to try: its inputs by name, and how coefficients are found."""

    name: str
    columns: tuple[str, ...]
    solve: Solve
    estimate: Estimate


@dataclass(frozen=True)
class Fit:
    """Coefficients (F,) and the inverse normal matrix (F, F) of those that are not zero."""

    coefficients: Values
    inverse: Values

    @classmethod
    def of(cls, candidate: Candidate, inputs: Values, target: Values) -> "Fit":
        """Fit inputs (N, F) to times (N,)."""
        rows = inputs / target[:, None]
        coefficients = candidate.estimate(rows, candidate.solve)
        active = np.where(coefficients != 0, rows, 0.0)
        scale = _scale(active)
        inverse = np.linalg.pinv((active / scale).T @ (active / scale), hermitian=True)
        return cls(coefficients, inverse / np.outer(scale, scale))

    def spread(self, inputs: Values) -> Values:
        """Return how many times the error of a measured subnet is expected, shape (N,): the root of 1 + leverage."""
        predicted = np.maximum(inputs @ self.coefficients, np.finfo(float).tiny)
        rows = inputs / predicted[:, None]
        leverage = np.einsum("ni,ij,nj->n", rows, self.inverse, rows)
        return np.asarray(np.sqrt(1 + np.maximum(leverage, 0.0)))


@dataclass(frozen=True)
class HeldOut:
    """Predictions of measured subnets (N,) by fits that have not seen them, and the `Fit.spread` of each."""

    guesses: Values
    spreads: Values

    def scores(self, target: Values) -> dict[str, float]:
        """Return mape (percent), within_5 and within_10 (shares), tau, n."""
        return {
            "mape": scores.mape(self.guesses, target),
            "within_5": scores.within(self.guesses, target, 5),
            "within_10": scores.within(self.guesses, target, 10),
            "tau": scores.kendall_tau(self.guesses, target),
            "n": float(len(target)),
        }

    def error_quantile(self, target: Values) -> float:
        """Return the relative error that nine of ten new subnets of spread 1 stay within.

        A conformal quantile of the held-out errors; below nine subnets none exists, so Student's t on their root
        mean square.
        """
        from scipy.special import stdtrit

        errors = np.sort(np.abs(self.guesses / target - 1) / self.spreads)
        rank = int(np.ceil((len(errors) + 1) * COVERAGE))
        if rank <= len(errors):
            return float(errors[rank - 1])
        return float(np.sqrt(np.mean(errors**2)) * stdtrit(len(errors) - 1, (1 + COVERAGE) / 2))


def choose(
    candidates: Sequence[Candidate], inputs: Mapping[str, Values], target: Values
) -> tuple[Candidate, Fit, HeldOut]:
    """Return the candidate of the smallest held-out MAPE, fitted to all; of equals the one of fewest inputs."""
    tried = [(candidate, _held_out(candidate, _stacked(candidate, inputs), target)) for candidate in candidates]
    best, held_out = min(tried, key=lambda one: (round(scores.mape(one[1].guesses, target), 6), len(one[0].columns)))
    return best, Fit.of(best, _stacked(best, inputs), target), held_out


def signed(rows: Values, weights: Values) -> Values:
    """Return the coefficients of least squares."""
    roots = np.sqrt(weights)
    return np.asarray(np.linalg.lstsq(rows * roots[:, None], roots, rcond=None)[0], dtype=np.float64)


def nonnegative(rows: Values, weights: Values) -> Values:
    """Return the coefficients of least squares with none below zero: nothing that a network does gives time back."""
    from scipy.optimize import nnls

    roots, scale = np.sqrt(weights), _scale(rows)
    return np.asarray(nnls(rows / scale * roots[:, None], roots)[0] / scale, dtype=np.float64)


def plain(rows: Values, solve: Solve) -> Values:
    """Return the coefficients with all rows of equal weight."""
    return solve(rows, np.ones(len(rows)))


def robust(rows: Values, solve: Solve) -> Values:
    """Return the coefficients with rows that lie far off left out; as `plain` where too few rows could tell."""
    coefficients = plain(rows, solve)
    for _ in range(50):
        weights = 1 / np.maximum(np.abs(rows @ coefficients - 1), CLOSEST)
        before, coefficients = coefficients, solve(rows, weights / weights.mean())
        if _settled(before, coefficients):
            break
    residuals, explained = np.abs(rows @ coefficients - 1), np.count_nonzero(coefficients)
    if len(rows) < explained + 3:
        return plain(rows, solve)
    # As many residuals as there are coefficients are zero by construction and say nothing of the scale.
    scale = max(1.4826 * float(np.median(np.sort(residuals)[explained:])), CLOSEST)
    for _ in range(30):
        weights = np.clip(1 - (residuals / (BISQUARE * scale)) ** 2, 0, 1) ** 2
        before, coefficients = coefficients, solve(rows, weights)
        if _settled(before, coefficients):
            break
        residuals = np.abs(rows @ coefficients - 1)
    return coefficients


def _settled(before: Values, after: Values) -> bool:
    """Return whether reweighting has ended: its 80 rounds are more than half of a fit that needs few."""
    return bool(np.abs(after - before).max() <= SETTLED * np.abs(after).max())


def _scale(rows: Values) -> Values:
    """Return the largest size of each column (F,), 1 for a column of zeros."""
    largest = np.abs(rows).max(axis=0)
    return np.where(largest > 0, largest, 1.0)


def _stacked(candidate: Candidate, inputs: Mapping[str, Values]) -> Values:
    return np.stack([inputs[column] for column in candidate.columns], axis=1)


def _held_out(candidate: Candidate, inputs: Values, target: Values) -> HeldOut:
    count = len(target)
    folds = np.arange(count) if count <= MOST_FOLDS else np.arange(count) % (MOST_FOLDS // 2)
    guesses, spreads = np.zeros(count), np.ones(count)
    for fold in range(folds.max() + 1):
        out = folds == fold
        fit = Fit.of(candidate, inputs[~out], target[~out])
        guesses[out] = inputs[out] @ fit.coefficients
        spreads[out] = fit.spread(inputs[out])
    return HeldOut(guesses, spreads)
