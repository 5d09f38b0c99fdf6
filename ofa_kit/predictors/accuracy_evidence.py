"""What a Gaussian process of top-1 learns from measured subnets: the parameters of largest posterior probability.

They are how important each group of features is, how strong interactions are and how far they reach, how noisy a
measurement is, and where the ceiling is: marginal likelihood times a prior, with exact gradients. The curved scale is
linearised at the top-1 that was fitted before, so that noise is that of top-1 itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ofa_kit.predictors.accuracy_process import Process, covariance, inverse, squared_distance, top1_of

Values = NDArray[np.float64]
MOST_ROWS = 256
"""Up to this many rows tell the parameters; all rows tell the predictions."""
ROUNDS, ITERATIONS, SETTLED = 2, 40, 3
"""Times that parameters are sought, each from the fit of the last; and that one fit is linearised at itself."""
START, CLOSEST = 0.8, 0.9
"""First fit, as a share of what was measured, and the largest share of the way to the ceiling that a fit may go."""
SAME = 1e-6
"""Points by which top-1 must differ to be taken as different."""
INTERACTION, REACH, NOISE, SHARE, CEILING = range(-5, 0)
"""Where parameters stand at the end of their vector: logarithms of a variance, a distance and a variance, the share of
noise that grows with squared standard errors, and the ceiling's k; before them the logarithms of the groups'
variances."""
PRIOR = ((-4.6, 3.0), (0.4, 0.7), (-5.6, 2.0), (0.5, 0.5), (0.3, 0.5))
GROUP_PRIOR = (-4.5, 2.0)
"""Mean and standard deviation of each, for top-1 of mean 0 and variance 1."""
BOUNDS = ((-14.0, 3.0), (-2.5, 4.0), (-12.0, 1.0), (0.0, 0.95))
GROUP_BOUNDS, LOWEST_CEILING = (-14.0, 5.0), 1e-3


@dataclass(frozen=True)
class Rows:
    """Measured subnets: features (N, C + 2), top-1 (N,), squared standard errors as times of a usual one (N,)."""

    features: Values
    top1: Values
    relative: Values

    def at(self, index: NDArray[np.int64]) -> "Rows":
        return Rows(self.features[index], self.top1[index], self.relative[index])


@dataclass(frozen=True)
class Design:
    """The groups of features of a process, and which other parts it has."""

    groups: Sequence[Values]
    interactions: bool = True
    """Whether anything comes on top of the sum of single choices."""
    ceiling: bool = True
    """Whether the ceiling is learned; else it is 100 %."""

    @cached_property
    def columns(self) -> Values:
        """(C + 2, F) columns of all groups."""
        return np.hstack(list(self.groups))

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """(G,) first column of each group."""
        return np.cumsum([0, *(group.shape[1] for group in self.groups)])[:-1]

    def embedding(self, parameters: Values) -> Values:
        """Return the columns (C + 2, F), each as long as its group is important."""
        widths = np.diff([*self.starts, self.columns.shape[1]])
        return np.asarray(self.columns * np.repeat(np.exp(parameters[:INTERACTION] / 2), widths))

    def interaction(self, parameters: Values) -> tuple[float, float]:
        """Return the variance of interactions and their reach."""
        return float(np.exp(parameters[INTERACTION])) if self.interactions else 0.0, float(np.exp(parameters[REACH]))


def fit_process(design: Design, rows: Rows) -> Process:
    """Learn a process from measured subnets, top-1 in percent."""
    center, spread = float(rows.top1.mean()), float(rows.top1.std())
    scale = spread if spread > SAME else 1.0
    rows = Rows(rows.features, (rows.top1 - center) / scale, rows.relative)
    few = rows.at(np.random.default_rng(0).permutation(len(rows.top1))[:MOST_ROWS])
    fitted, parameters = START * few.top1, _prior(design)[0]
    for _ in range(ROUNDS):
        parameters = _best_parameters(design, few, fitted, lowest=scale / max(100 - center, scale), start=parameters)
        fitted = _solved(design, parameters, few, fitted)[0]
    _, known_noise, dual = _solved(design, parameters, rows, START * rows.top1)
    interaction, reach = design.interaction(parameters)
    return Process(
        center=center,
        scale=scale,
        embedding=design.embedding(parameters),
        interaction=interaction,
        reach=reach,
        ceiling=float(parameters[CEILING]),
        noise=float(np.exp(parameters[NOISE])),
        known=rows.features,
        known_noise=known_noise,
        dual=dual,
    )


def misfit(design: Design, parameters: Values, rows: Rows, fitted: Values) -> tuple[float, Values]:
    """Return minus the log marginal likelihood of the measured top-1, up to a constant, and its gradient (G + 5,)."""
    strength, reach = design.interaction(parameters)
    ceiling = float(parameters[CEILING])
    places = rows.features @ design.embedding(parameters)
    product = places @ places.T
    squared = squared_distance(places, places, product) / reach**2
    interactions = strength * np.exp(-squared / 2) if strength else np.zeros_like(product)
    latent, slope = _linearised(fitted, rows.top1, ceiling)
    variances = _noise(parameters, rows)
    precision, log_determinant = inverse(product + interactions + np.diag(variances * slope**2))
    dual = precision @ latent
    value = float(latent @ dual) / 2 + log_determinant / 2 - float(np.log(slope).sum())

    # d value = trace(pull @ d covariance) / 2 + dual @ d latent - sum(d log slope)
    pull = precision - np.outer(dual, dual)
    gradient = np.zeros_like(parameters)
    curved = pull * interactions
    near = curved / reach**2
    by_column = np.einsum("nf,nf->f", places, (pull + near) @ places) - near.sum(axis=1) @ places**2
    gradient[:INTERACTION] = np.add.reduceat(by_column, design.starts) / 2
    gradient[INTERACTION] = curved.sum() / 2
    gradient[REACH] = np.vdot(curved, squared) / 2
    own = np.diag(pull) * slope**2
    gradient[NOISE] = own @ variances / 2
    gradient[SHARE] = own @ (rows.relative - 1) * np.exp(parameters[NOISE]) / 2
    slope_change = fitted * slope**2
    latent_change = (fitted * slope - np.log(slope) / ceiling) / ceiling + (rows.top1 - fitted) * slope_change
    gradient[CEILING] = dual @ latent_change + own @ (variances * fitted * slope) - fitted @ slope
    return value, gradient


def _best_parameters(design: Design, rows: Rows, fitted: Values, *, lowest: float, start: Values) -> Values:
    """Return the parameters (G + 5,), linearised at `fitted` (N,); the ceiling's k is at least `lowest`."""
    from scipy.optimize import minimize

    mean, deviation = _prior(design)
    highest = CLOSEST / max(float(fitted.max()), CLOSEST)
    lowest = min(max(lowest, LOWEST_CEILING), highest)
    bounds = [*[GROUP_BOUNDS] * len(design.groups), *BOUNDS, (lowest, highest if design.ceiling else lowest)]

    def loss(parameters: Values) -> tuple[float, Values]:
        value, gradient = misfit(design, parameters, rows, fitted)
        far = (parameters - mean) / deviation
        return value + float(far @ far) / 2, gradient + far / deviation

    first = np.clip(start, *np.array(bounds).T)
    options = {"maxiter": ITERATIONS, "ftol": 1e-6}
    return np.asarray(minimize(loss, first, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x)


def _prior(design: Design) -> Values:
    """Return means and standard deviations of the parameters, (2, G + 5)."""
    return np.array([*[GROUP_PRIOR] * len(design.groups), *PRIOR]).T


def _solved(design: Design, parameters: Values, rows: Rows, fitted: Values) -> tuple[Values, Values, Values]:
    """Return the fitted top-1, the variance of each latent value and the dual weights, all (N,)."""
    places = rows.features @ design.embedding(parameters)
    known = covariance(places, places, *design.interaction(parameters))
    ceiling = float(parameters[CEILING])
    for _ in range(SETTLED):
        latent, slope = _linearised(np.minimum(fitted, CLOSEST / ceiling), rows.top1, ceiling)
        variances = _noise(parameters, rows) * slope**2
        dual = inverse(known + np.diag(variances))[0] @ latent
        fitted = top1_of(known @ dual, ceiling)
    return np.minimum(fitted, CLOSEST / ceiling), variances, dual


def _linearised(fitted: Values, top1: Values, ceiling: float) -> tuple[Values, Values]:
    """Return the latent values (N,) of measured top-1 on tangents at the fitted top-1, and the slopes (N,) of these."""
    slope = 1 / (1 - ceiling * fitted)
    return np.log(slope) / ceiling + (top1 - fitted) * slope, slope


def _noise(parameters: Values, rows: Rows) -> Values:
    """Return the variance of each measured top-1 around what the process can explain, (N,)."""
    return np.asarray(np.exp(parameters[NOISE]) * (1 + parameters[SHARE] * (rows.relative - 1)))
