"""Top-1 of any subnet, learned from a few measured ones.

A Gaussian process with a linear and an RBF kernel on one-hot choices, depths and log-MACs: the linear part carries
over to subnets outside the measured ones, where an RBF alone falls back to the mean.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.features import accuracy_features
from ofa_kit.arch.genes import Genomes
from ofa_kit.arch.space import SearchSpace
from ofa_kit.errors import TableError
from ofa_kit.predictors import scores

Values = NDArray[np.float64]
MINIMUM = 8


@dataclass(frozen=True)
class AccuracyPredictor:
    """Predicts top-1 in percent for whole populations of genomes."""

    space: SearchSpace
    model: Any
    held_out: dict[str, float]
    """Scores of 5-fold cross-validation: rmse (points), tau, n."""

    @classmethod
    def fit(cls, space: SearchSpace, measured: Sequence[tuple[ArchConfig, float]]) -> "AccuracyPredictor":
        """Learn from measured subnets (arch, top-1 in percent)."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.model_selection import KFold, cross_val_predict

        if len(measured) < MINIMUM:
            raise TableError(
                f"the accuracy predictor needs at least {MINIMUM} measured subnets, found {len(measured)}; "
                "run `ofa-kit measure-accuracy` with a larger --subnets"
            )
        genomes = np.stack([space.encode(arch) for arch, _ in measured])
        inputs, target = accuracy_features(space, genomes), np.array([top1 for _, top1 in measured])
        folds = KFold(n_splits=min(5, len(target)), shuffle=True, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", ConvergenceWarning
            )  # a kernel part that the data do not need goes to its bound
            guesses = cross_val_predict(_gaussian_process(), inputs, target, cv=folds)
            model = _gaussian_process().fit(inputs, target)
        held_out = {
            "rmse": scores.rmse(guesses, target),
            "tau": scores.kendall_tau(guesses, target),
            "n": float(len(target)),
        }
        return cls(space, model, held_out)

    def predict_top1(self, genomes: Genomes) -> Values:
        """Return predicted top-1 in percent, shape (N,)."""
        return np.asarray(self.model.predict(accuracy_features(self.space, genomes)), dtype=float)


def _gaussian_process() -> Any:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel

    kernel = ConstantKernel(1.0) * DotProduct(1.0) + ConstantKernel(1.0) * RBF(5.0) + WhiteKernel(0.01)
    return GaussianProcessRegressor(kernel, normalize_y=True)
