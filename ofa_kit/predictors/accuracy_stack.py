"""Processes of several designs as one predictor: how much each counts, and how far off the whole is.

Both are told by rows that were held out, fold by fold, from everything that was learned.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ofa_kit.predictors import scores
from ofa_kit.predictors.accuracy_evidence import Design, Rows, fit_process
from ofa_kit.predictors.accuracy_process import Process

Values = NDArray[np.float64]
FOLDS = 5
COVERAGE = 0.9
TOP = 0.2
EQUALLY = 0.3
"""Standard deviation of what is expected of a weight, around equal ones."""
SUM_TO_ONE = 1e3


@dataclass(frozen=True)
class Stack:
    """A weighted mean of processes."""

    processes: tuple[Process, ...]
    weights: Values
    quantile: float
    """Standard deviations that nine of ten measured subnets stay within."""

    def predict_top1(self, features: Values) -> Values:
        """Return top-1 in percent, (M,)."""
        return np.asarray(self.weights @ np.stack([process.predict_top1(features) for process in self.processes]))

    def predict(self, features: Values) -> tuple[Values, Values]:
        """Return top-1 in percent and the half width in points of its 90 % interval, both (M,)."""
        top1, deviations = zip(*(process.predict(features) for process in self.processes), strict=True)
        mean, deviation = mixed(self.weights, np.stack(top1), np.stack(deviations))
        return mean, self.quantile * deviation


def fit_stack(designs: Sequence[Design], rows: Rows) -> tuple[Stack, dict[str, float]]:
    """Return what was learned from all rows, and its scores on held-out rows."""
    fold = np.random.default_rng(0).permutation(len(rows.top1)) % FOLDS
    top1, deviations = np.zeros((2, len(designs), len(rows.top1)))
    for out in (fold == number for number in range(FOLDS)):
        seen, unseen = (rows.at(np.flatnonzero(mask)) for mask in (~out, out))
        for number, design in enumerate(designs):
            top1[number, out], deviations[number, out] = fit_process(design, seen).predict(unseen.features)
    weights = stacking_weights(top1 - rows.top1)
    guesses, deviation = mixed(weights, top1, deviations)
    far = np.abs(guesses - rows.top1) / deviation
    stack = Stack(tuple(fit_process(design, rows) for design in designs), weights, error_quantile(far))
    return stack, _scores(guesses, rows.top1, far, fold)


def mixed(weights: Values, top1: Values, deviations: Values) -> tuple[Values, Values]:
    """Return mean and standard deviation (M,) of a mixture of guesses (J, M): also where they disagree it is wide."""
    mean = weights @ top1
    return mean, np.sqrt(weights @ (deviations**2 + (top1 - mean) ** 2))


def stacking_weights(errors: Values) -> Values:
    """Return weights (J,) >= 0 of sum 1 that make the mean of errors (J, N) small; few rows leave them about equal."""
    from scipy.optimize import nnls

    count = len(errors)
    unit = max(scores.rmse(errors.mean(axis=0), np.zeros(1)), np.finfo(float).tiny)
    rows = np.vstack([errors.T / unit, np.eye(count) / EQUALLY, np.full((1, count), SUM_TO_ONE)])
    target = np.concatenate([np.zeros(errors.shape[1]), np.full(count, 1 / count / EQUALLY), [SUM_TO_ONE]])
    weights = nnls(rows, target)[0]
    return np.asarray(weights / weights.sum())


def error_quantile(errors: Values) -> float:
    """Return what nine of ten new errors stay within, given some in the same unit.

    The conformal quantile; below nine errors none exists, so Student's t on their root mean square.
    """
    from scipy.special import stdtrit

    ordered = np.sort(errors)
    rank = int(np.ceil((len(ordered) + 1) * COVERAGE))
    if rank <= len(ordered):
        return float(ordered[rank - 1])
    return float(np.sqrt(np.mean(ordered**2)) * stdtrit(len(ordered) - 1, (1 + COVERAGE) / 2))


def _scores(guesses: Values, top1: Values, far: Values, fold: NDArray[np.int64]) -> dict[str, float]:
    best = top1 >= np.quantile(top1, 1 - TOP)
    inside = [far[fold == out] <= error_quantile(far[fold != out]) for out in range(FOLDS)]
    return {
        "rmse": scores.rmse(guesses, top1),
        "tau": scores.kendall_tau(guesses, top1),
        "tau_top": scores.kendall_tau(guesses[best], top1[best]),
        "coverage": float(np.mean(np.concatenate(inside))),
        "n": float(len(top1)),
    }
