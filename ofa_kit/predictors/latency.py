"""Latency of any subnet: the sum of its blocks from the table, calibrated on whole networks measured on the device.

The raw sum is off by 5 to 100 % (profiler overhead, cold caches), but in proportion: a line fitted on a few measured
subnets mends it. Which line (scale; scale and constant; scale, constant and a cost per layer) is chosen by
leave-one-out cross-validation, and that score is reported.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ofa_kit.arch.config import ArchConfig
from ofa_kit.arch.features import AdditiveCost, additive_cost
from ofa_kit.arch.genes import Genomes
from ofa_kit.arch.space import SearchSpace
from ofa_kit.errors import TableError
from ofa_kit.predictors import scores

Values = NDArray[np.float64]
MINIMUM = 4
FEATURES = ((0,), (0, 1), (0, 1, 2))
"""Candidate lines: columns of (block sum, 1, layer count)."""


@dataclass(frozen=True)
class LatencyPredictor:
    """Predicts milliseconds for whole populations of genomes."""

    block_sum: AdditiveCost
    layer_count: AdditiveCost
    columns: tuple[int, ...]
    coefficients: Values
    scale: float
    """Measured / block sum at the median: the floor below which no line may extrapolate."""
    held_out: dict[str, float]
    """Leave-one-out scores: mape (percent), within_5 (share), tau, n."""

    @classmethod
    def fit(
        cls, space: SearchSpace, blocks: Mapping[str, float], measured: Sequence[tuple[ArchConfig, float]]
    ) -> "LatencyPredictor":
        """Calibrate block times (ms by lowering key) on measured subnets (arch, ms)."""
        if len(measured) < MINIMUM:
            raise TableError(
                f"calibration needs at least {MINIMUM} measured subnets, found {len(measured)}; profile again"
            )
        block_sum = additive_cost(space, lambda layer: blocks.get(layer.key, float("nan")))
        layer_count = additive_cost(space, lambda layer: 1.0)
        genomes = np.stack([space.encode(arch) for arch, _ in measured])
        target = np.array([ms for _, ms in measured])
        inputs = _inputs(block_sum, layer_count, genomes)
        if np.isnan(inputs).any():
            raise TableError("the table lacks blocks of measured subnets; run the same `ofa-kit profile` again")
        guesses = {
            columns: _leave_one_out(inputs[:, columns], target) for columns in FEATURES if _enough(columns, target)
        }
        columns = min(guesses, key=lambda c: (scores.mape(guesses[c], target), len(c)))
        held_out = {
            "mape": scores.mape(guesses[columns], target),
            "within_5": scores.within(guesses[columns], target, 5),
            "tau": scores.kendall_tau(guesses[columns], target),
            "n": float(len(target)),
        }
        scale = float(np.median(target / inputs[:, 0]))
        return cls(block_sum, layer_count, columns, _fit(inputs[:, columns], target), scale, held_out)

    def predict_ms(self, genomes: Genomes) -> Values:
        """Return predicted milliseconds, shape (N,); infinite where the table lacks a block."""
        inputs = _inputs(self.block_sum, self.layer_count, genomes)
        predicted = np.maximum(inputs[:, self.columns] @ self.coefficients, 0.5 * self.scale * inputs[:, 0])
        return np.where(np.isnan(predicted), np.inf, predicted)


def _inputs(block_sum: AdditiveCost, layer_count: AdditiveCost, genomes: Genomes) -> Values:
    return np.stack([block_sum.total(genomes), np.ones(len(genomes)), layer_count.total(genomes)], axis=1)


def _enough(columns: tuple[int, ...], target: Values) -> bool:
    return len(target) >= 4 * len(columns)


def _fit(inputs: Values, target: Values) -> Values:
    """Least squares of the relative error: a fast subnet counts as much as a slow one."""
    solution = np.linalg.lstsq(inputs / target[:, None], np.ones(len(target)), rcond=None)[0]
    return np.asarray(solution, dtype=np.float64)


def _leave_one_out(inputs: Values, target: Values) -> Values:
    rows = np.arange(len(target))
    return np.array([inputs[i] @ _fit(inputs[rows != i], target[rows != i]) for i in rows])
