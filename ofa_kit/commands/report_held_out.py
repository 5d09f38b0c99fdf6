"""Held-out predictions: what fits say of measured subnets that they have not seen, and how that grows with more rows.

The same folds serve the learning curve, the picture of predicted against measured, and the standard errors of effects.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ofa_kit.arch.genes import Genomes
from ofa_kit.errors import TableError
from ofa_kit.predictors import scores
from ofa_kit.predictors.accuracy_stack import TOP
from ofa_kit.progress import Reporter

Values = NDArray[np.float64]
Indices = NDArray[np.int64]
Predict = Callable[[Genomes], tuple[Values, Values]]
"""From genomes (N, genome_length) to values (N,) and the half widths of their 90 % intervals (N,)."""
Fit = Callable[[Indices], Predict]
"""From the positions of rows to a prediction that has learned from these alone."""
Score = Callable[[Values, Values], float]
FOLDS = 5
POINTS = 5
"""Sizes of a learning curve."""
FEWEST_TOP = 5
"""Subnets from which on the order among the best of them is judged too."""


@dataclass(frozen=True)
class HeldOut:
    """N measured subnets, each predicted by a fit to `size` others."""

    size: int
    measured: Values
    predicted: Values
    half_widths: Values
    folds: Indices
    refits: tuple[Predict, ...]
    """The fit of each fold."""

    @property
    def inside(self) -> NDArray[np.bool_]:
        """Which measured values (N,) lie inside their 90 % interval."""
        return np.asarray(np.abs(self.predicted - self.measured) <= self.half_widths)

    @property
    def coverage(self) -> float:
        """Share (0..1) of measured values inside their 90 % interval."""
        return float(self.inside.mean())

    @property
    def top(self) -> NDArray[np.bool_]:
        """Which rows (N,) are among the best fifth by measured value."""
        return np.asarray(self.measured >= np.sort(self.measured)[-max(1, round(TOP * len(self.measured)))])

    @property
    def tau_top(self) -> float:
        """Kendall's tau among the best fifth; NaN where they are too few to tell."""
        return self.order_of_top(self.predicted)

    def order_of_top(self, values: Values) -> float:
        """Return Kendall's tau of any values (N,) and the measured ones among the best fifth."""
        top = self.top
        return scores.kendall_tau(values[top], self.measured[top]) if top.sum() >= FEWEST_TOP else float("nan")

    def scored(self, score: Score) -> tuple[float, float]:
        """Return a score of all rows, and its standard error from leaving out one fold after the other."""
        parts = [self.folds != fold for fold in range(FOLDS)]
        without = np.array([score(self.predicted[part], self.measured[part]) for part in parts])
        return score(self.predicted, self.measured), float(np.sqrt((FOLDS - 1) * without.var()))


def learning_curve(fit: Fit, genomes: Genomes, measured: Values, minimum: int, reporter: Reporter) -> list[HeldOut]:
    """Return held-out predictions by fits to more and more rows, the last to all rows but a fold.

    Every fit of a fold has the rows of the one before and others; `minimum` is what a fit needs.
    """
    largest = _largest(len(measured), minimum)
    sizes = np.unique(np.geomspace(minimum, largest, POINTS).round().astype(int))
    curve = []
    with reporter.task("held-out predictions", len(sizes)) as advance:
        for done, size in enumerate(sizes, start=1):
            curve.append(_held_out(fit, genomes, measured, int(size)))
            advance(done, f"by fits to {size} subnets")
    return curve


def held_out(fit: Fit, genomes: Genomes, measured: Values, minimum: int) -> HeldOut:
    """Return predictions of all rows, each fifth by a fit to the other four."""
    return _held_out(fit, genomes, measured, _largest(len(measured), minimum))


def _largest(count: int, minimum: int) -> int:
    """Return how many rows every fit can have when a fold is left out."""
    largest = count - -(-count // FOLDS)
    if largest < minimum:
        least = next(n for n in range(minimum, 2 * minimum + FOLDS) if n - -(-n // FOLDS) >= minimum)
        raise TableError(
            f"held-out predictions need at least {least} measured subnets, found {count}; run `ofa-kit profile` or "
            "`ofa-kit measure-accuracy` with a larger --subnets"
        )
    return largest


def _held_out(fit: Fit, genomes: Genomes, measured: Values, size: int) -> HeldOut:
    order = np.random.default_rng(0).permutation(len(measured))
    folds = np.empty(len(measured), dtype=np.int64)
    folds[order] = np.arange(len(measured)) % FOLDS
    predicted, half_widths = np.empty(len(measured)), np.empty(len(measured))
    refits = []
    for fold in range(FOLDS):
        refits.append(fit(order[folds[order] != fold][:size]))
        out = folds == fold
        predicted[out], half_widths[out] = refits[-1](genomes[out])
    return HeldOut(size, measured, predicted, half_widths, folds, tuple(refits))
