"""Top-1 of any subnet, learned from a few measured ones, with an error bar.

Three Gaussian processes (accuracy_process.py), weighed by cross-validation: with and without interactions of choices,
and with a ceiling of 100 % instead of a learned one. On ImageNet subnets of once-for-all, ridge, support vectors,
boosted trees and neural networks are worse at every number of rows (tools/bench/accuracy_predictor.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.features import accuracy_features
from ofa_kit.arch.genes import Genomes
from ofa_kit.arch.space import SearchSpace
from ofa_kit.errors import TableError
from ofa_kit.predictors import accuracy_file
from ofa_kit.predictors.accuracy_evidence import Design, Rows
from ofa_kit.predictors.accuracy_groups import feature_groups
from ofa_kit.predictors.accuracy_stack import Stack, fit_stack
from ofa_kit.predictors.one_thread import one_blas_thread

Values = NDArray[np.float64]
MINIMUM = 8
CHUNK = 2048
"""Genomes predicted at once: more take memory and no less time."""


@dataclass(frozen=True)
class AccuracyPredictor:
    """Predicts top-1 in percent for whole populations of genomes."""

    space: SearchSpace
    genomes: Genomes
    """(N, genome_length): the measured subnets."""
    stack: Stack
    held_out: dict[str, float]
    """Scores on held-out subnets: rmse (points), tau, tau_top (among the best fifth), coverage (share), n."""

    @classmethod
    def fit(
        cls,
        space: SearchSpace,
        measured: Sequence[tuple[ArchConfig, float]],
        *,
        standard_errors: Sequence[float] | Values | None = None,
    ) -> "AccuracyPredictor":
        """Learn from measured subnets (arch, top-1 in percent), and their standard errors in points (NaN: unknown).

        Standard errors tell which rows to trust more than others, never how large errors are: that is learned, for much
        of a standard error is common to subnets that saw the same images.
        """
        if len(measured) < MINIMUM:
            raise TableError(
                f"the accuracy predictor needs at least {MINIMUM} measured subnets, found {len(measured)}; "
                "run `ofa-kit measure-accuracy` with a larger --subnets"
            )
        relative = np.ones(len(measured)) if standard_errors is None else _relative(np.asarray(standard_errors))
        genomes = np.stack([space.encode(arch) for arch, _ in measured])
        top1 = np.array([top1 for _, top1 in measured], dtype=float)
        order = np.lexsort((relative, top1, *genomes.T))  # the order of the rows decides nothing
        rows = Rows(accuracy_features(space, genomes[order]), top1[order], relative[order])
        groups = feature_groups(space)
        designs = Design(groups), Design(groups, interactions=False), Design(groups, ceiling=False)
        with one_blas_thread():
            return cls(space, genomes[order], *fit_stack(designs, rows))

    @property
    def quality(self) -> str:
        """One line on what the predictions are worth."""
        found = self.held_out
        return (
            f"stacked Gaussian processes; on held-out subnets of {found['n']:.0f} measured: RMSE {found['rmse']:.3f} "
            f"points, Kendall tau {found['tau']:.3f}, 90 % intervals hold {100 * found['coverage']:.0f} %"
        )

    def predict_top1(self, genomes: Genomes) -> Values:
        """Return predicted top-1 in percent, shape (N,)."""
        with one_blas_thread():
            parts = [self.stack.predict_top1(accuracy_features(self.space, part)) for part in _chunks(genomes)]
        return np.clip(np.concatenate(parts), 0, 100)

    def predict(self, genomes: Genomes) -> tuple[Values, Values]:
        """Return predicted top-1 in percent and half the width in points of its 90 % interval, both (N,).

        Nine in ten subnets measured like those it learned from are inside; unlike ones have wider intervals.
        """
        with one_blas_thread():
            parts = [self.stack.predict(accuracy_features(self.space, part)) for part in _chunks(genomes)]
        top1, half_width = (np.concatenate(values) for values in zip(*parts, strict=True))
        return np.clip(top1, 0, 100), half_width

    def save(self, path: Path) -> None:
        """Write one .npz file without pickle that this and later versions read."""
        accuracy_file.write(path, self.space, self.genomes, self.stack, self.held_out)

    @classmethod
    def load(cls, path: Path, space: SearchSpace) -> "AccuracyPredictor":
        """Read a saved predictor; TableError when damaged or too new, StaleTableError when of another space."""
        return cls(space, *accuracy_file.read(path, space))


def _relative(errors: Values) -> Values:
    """Return the squares of standard errors (N,) as times of their median; 1 where unknown."""
    usual = np.median(errors[errors > 0]) if (errors > 0).any() else 1.0
    return np.where(np.isnan(errors), 1.0, (errors / usual) ** 2)


def _chunks(genomes: Genomes) -> list[Genomes]:
    return [genomes[start : start + CHUNK] for start in range(0, max(len(genomes), 1), CHUNK)]
